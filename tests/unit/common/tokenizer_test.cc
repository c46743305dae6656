// Tokenizers with vocabularies small enough to follow by hand.

#include "common/model/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/json.h"
#include "common/model/bpe_tokenizer.h"
#include "common/model/byte_level.h"
#include "common/model/utf8.h"
#include "common/strings.h"

namespace echelon {
namespace {

using Ids = std::vector<int32_t>;

// Byte-level: the 256 bytes, then "he" 256, "ll" 257, "hell" 258, "hello" 259, "Ġhe" 260,
// <|end|> 261, "Ġ" is byte 32's token.
TokenizerData ByteData() {
  TokenizerData data;
  data.source = "test";
  data.byte_level = true;
  for (int byte = 0; byte < 256; ++byte) {
    AppendUtf8(data.tokens.emplace_back(), ByteLevelChar(static_cast<uint8_t>(byte)));
  }
  for (const char* token : {"he", "ll", "hell", "hello", "Ġhe", "<|end|>"}) {
    data.tokens.push_back(token);
  }
  data.merges = {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {"Ġ", "he"}};
  data.added = {{261, "<|end|>", true}};
  data.pre_tokenizer = {{PreTokenizerStep::Kind::kRegex, "gpt2"}};
  data.end_ids = {261};
  return data;
}

// SentencePiece-style: <unk> 0, <s> 1, </s> 2, <0x00> 3 ... <0xFF> 258, ▁ 259, a 260, b 261, ab
// 262, ▁a 263, ▁ab 264, ▁▁ 265.
TokenizerData PieceData() {
  TokenizerData data;
  data.source = "test";
  data.tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kHex[] = "0123456789ABCDEF";
    data.tokens.push_back(StrCat("<0x", kHex[byte >> 4], kHex[byte & 15], ">"));
  }
  for (const char* token : {"▁", "a", "b", "ab", "▁a", "▁ab", "▁▁"}) data.tokens.push_back(token);
  data.scores.assign(data.tokens.size(), -1000);
  data.scores[262] = -1;  // ab before ▁a
  data.scores[263] = -2;
  data.scores[264] = -3;
  data.scores[265] = -4;
  data.byte_fallback = true;
  data.fuse_unknown = true;
  data.unknown_id = 0;
  data.added = {{0, "<unk>", true}, {1, "<s>", true}, {2, "</s>", true}};
  data.normalizer = {{NormalizerStep::Kind::kPrepend, "", "▁"},
                     {NormalizerStep::Kind::kReplace, " ", "▁"}};
  data.prefix = {1};
  data.bos_id = 1;
  data.end_ids = {2};
  data.space_marks = true;
  data.drops_leading_space = true;
  return data;
}

std::unique_ptr<Tokenizer> Build(TokenizerData data) {
  auto tokenizer = BuildTokenizer(std::move(data));
  CHECK_MSG(tokenizer.ok(), tokenizer.ok() ? "" : tokenizer.error().message);
  return std::move(tokenizer).value();
}

TEST(ByteLevel, WritesEveryByteAsOneCharacter) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t code = ByteLevelChar(static_cast<uint8_t>(byte));
    EXPECT_EQ(ByteLevelByte(code), byte);
    AppendUtf8(all, code);
  }
  EXPECT_EQ(ByteLevelChar(' '), U'Ġ');
  EXPECT_EQ(ByteLevelChar('\n'), U'Ċ');
  EXPECT_EQ(ByteLevelChar(0x7F), U'\u0121');
  EXPECT_EQ(ByteLevelChar(0xAD), U'\u0143');
  EXPECT_EQ(ByteLevelBytes(all).size(), 256u);
  EXPECT_EQ(ByteLevelBytes("日"), "日");  // outside the alphabet: itself
}

TEST(Utf8, RepairsAsUnicodeRecommends) {
  EXPECT_EQ(RepairUtf8("a\xC0\xAF\xE2\x82z\xF0\x9F"), "a\uFFFD\uFFFD\uFFFDz\uFFFD");
  EXPECT_EQ(RepairUtf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(RepairUtf8("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  std::string pending = "x\xE6\x97";
  EXPECT_EQ(TakeCompleteUtf8(pending), "x");
  pending += "\xA5";
  EXPECT_EQ(TakeCompleteUtf8(pending), "日");
}

TEST(Tokenizer, MergesBytesByRank) {
  const auto t = Build(ByteData());
  EXPECT_EQ(t->Encode("hello"), (Ids{259}));
  EXPECT_EQ(t->Encode("hello hello"), (Ids{259, ' ', 259}));  // "h e" comes before "Ġ he"
  EXPECT_EQ(t->Encode("he he"), (Ids{256, 260}));
  EXPECT_EQ(t->Encode(""), Ids{});
  EXPECT_EQ(t->Encode("é"), (Ids{0xC3, 0xA9}));
}

TEST(Tokenizer, FindsSpecialTokensInTrustedTextOnly) {
  const auto t = Build(ByteData());
  EXPECT_EQ(t->Encode("<|end|>"), (Ids{261}));
  const auto encode = [&](std::vector<TextSpan> spans) { return t->Encode(spans, false); };
  EXPECT_EQ(encode({{"<|end|>", false}}).size(), 7u);
  EXPECT_EQ(encode({{"he", true}, {"<|end|>", false}, {"<|end|>", true}}).size(), 1u + 7u + 1u);
  EXPECT_EQ(encode({{"<|en", true}, {"d|>", false}}).size(), 7u);
  EXPECT_EQ(encode({{"<|en", false}, {"d|>", true}}).size(), 7u);
  // A boundary between spans is none between tokens.
  EXPECT_EQ(encode({{"he", true}, {"llo", false}}), (Ids{259}));
  EXPECT_EQ(encode({{"<|en", true}, {"d|>", true}}), (Ids{261}));
}

TEST(Tokenizer, MergesByScoreAndFallsBackToBytes) {
  const auto t = Build(PieceData());
  EXPECT_EQ(t->Encode("ab"), (Ids{1, 264}));
  EXPECT_EQ(t->Encode("ab", false), (Ids{264}));
  EXPECT_EQ(t->Encode("a b"), (Ids{1, 263, 259, 261}));
  EXPECT_EQ(t->Encode("  a"), (Ids{1, 265, 263}));
  EXPECT_EQ(t->Encode("é"), (Ids{1, 259, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(t->Encode("</s>"), (Ids{1, 2}));
}

TEST(Tokenizer, UnknownCharactersFuseOrVanish) {
  TokenizerData data = PieceData();
  data.byte_fallback = false;
  EXPECT_EQ(Build(data)->Encode("xyz", false), (Ids{259, 0}));
  data.fuse_unknown = false;
  EXPECT_EQ(Build(data)->Encode("xyz", false), (Ids{259, 0, 0, 0}));
  data.unknown_id = -1;
  EXPECT_EQ(Build(data)->Encode("xyz", false), (Ids{259}));
}

TEST(Tokenizer, DecodesBytesMarksAndSpecialTokens) {
  const auto t = Build(PieceData());
  EXPECT_EQ(t->Decode(Ids{1, 264, 263, 2}), "ab a");
  EXPECT_EQ(t->TokenBytes(264), " ab");
  EXPECT_EQ(t->TokenBytes(3 + 0xC3), "\xC3");
  EXPECT_EQ(t->TokenBytes(2), "</s>");
  EXPECT_EQ(t->TokenBytes(-1), "");
  EXPECT_EQ(t->TokenBytes(1 << 30), "");
  EXPECT_TRUE(t->IsSpecial(2));
  EXPECT_FALSE(t->IsSpecial(264));
  EXPECT_EQ(t->Decode(Ids{260, 3 + 0xE2, 3 + 0x82, 260}), "a\uFFFDa");
  for (const char* text : {"ab a", "é日🙂", "a  b", "x\ny"}) {
    EXPECT_EQ(t->Decode(t->Encode(text)), text);
  }
}

TEST(Detokenizer, EmitsWholeCharactersOnly) {
  const auto t = Build(PieceData());
  for (const std::string text : {"a🙂b é", " ab", "日本"}) {
    const Ids ids = t->Encode(text);
    Detokenizer stream(*t);
    std::string all;
    for (const int32_t id : ids) {
      const std::string part = stream.Push(id);
      EXPECT_TRUE(IsValidUtf8(part));
      all += part;
    }
    all += stream.Flush();
    EXPECT_EQ(all, text);
    EXPECT_EQ(all, t->Decode(ids));
  }
  Detokenizer stream(*t);
  EXPECT_EQ(stream.Push(1), "");
  EXPECT_EQ(stream.Push(3 + 0xF0), "");
  EXPECT_EQ(stream.Push(3 + 0x9F), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Tokenizer, AcceptsTextThatIsNotUtf8) {
  EXPECT_EQ(Build(PieceData())->Encode("a\xFF", false), (Ids{263, 3 + 0xEF, 3 + 0xBF, 3 + 0xBD}));
  const std::vector<TextSpan> spans{{"\xE2\x82", false}, {"</s>", true}};
  EXPECT_EQ(Build(PieceData())->Encode(spans, false).back(), 2);
}

TEST(Tokenizer, HonoursTheFlagsOfAddedTokens) {
  TokenizerData data = ByteData();
  data.added[0].lstrip = true;
  data.added[0].rstrip = true;
  EXPECT_EQ(Build(data)->Encode("h  <|end|> \n o"), (Ids{'h', 261, 'o'}));
  data.added[0] = {261, "<|end|>", true, false, true};
  EXPECT_EQ(Build(data)->Encode("o<|end|>").size(), 8u);
  EXPECT_EQ(Build(data)->Encode("-<|end|>-"), (Ids{'-', 261, '-'}));
  TokenizerData longest = ByteData();
  longest.tokens.push_back("<|end|>!");
  longest.added.push_back({262, "<|end|>!", true});
  EXPECT_EQ(Build(longest)->Encode("<|end|>!"), (Ids{262}));
  // In untrusted text a shorter token that may stand there does.
  longest.added[0].special = false;
  const std::vector<TextSpan> spans{{"<|end|>!", false}};
  EXPECT_EQ(Build(longest)->Encode(spans, false), (Ids{261, '!'}));
}

TEST(Tokenizer, RefusesWhatContradictsItself) {
  const auto message = [](TokenizerData data) {
    auto result = BuildTokenizer(std::move(data));
    return result.ok() ? std::string("ok") : result.error().message;
  };
  EXPECT_EQ(message(ByteData()), "ok");
  TokenizerData data = ByteData();
  data.merges.push_back({"h", "x-not-there"});
  EXPECT_EQ(message(data), "test: merges: entry 5 names a token that is not in the vocabulary");
  data = ByteData();
  data.end_ids = {262};
  EXPECT_NE(message(data).find("token id 262 is not in the vocabulary of 262"), std::string::npos);
  data = ByteData();
  data.added.push_back({-5, "x"});
  EXPECT_NE(message(data).find("added_tokens: token id -5"), std::string::npos);
  data = PieceData();
  data.scores.pop_back();
  EXPECT_NE(message(data).find("scores"), std::string::npos);
  data = ByteData();
  data.pre_tokenizer = {{PreTokenizerStep::Kind::kRegex, "(a+)+$"}};
  EXPECT_EQ(message(data),
            "test: pre_tokenizer: pre-tokenizer regex \"(a+)+$\" is not one of those known");
  data = ByteData();
  data.tokens.push_back(std::string(5000, 'x'));
  EXPECT_NE(message(data).find("5000 bytes"), std::string::npos);
  data = ByteData();
  data.added.push_back({5, std::string(600, 'x')});
  EXPECT_NE(message(data).find("limit of 512 bytes"), std::string::npos);
  EXPECT_EQ(message(TokenizerData{"test"}), "test: the vocabulary is empty");
}

// A folder with tokenizer.json and its companions, gone with the test.
class JsonFolder {
 public:
  JsonFolder() : path_(testing::TempDir() + "echelon-tokenizer-XXXXXX") {
    CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~JsonFolder() { std::filesystem::remove_all(path_); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  Result<std::unique_ptr<Tokenizer>> Load() const { return LoadTokenizer(path_); }
  std::string Message() const {
    auto result = Load();
    return result.ok() ? "ok" : result.error().message;
  }

 private:
  std::string path_;
};

constexpr char kModel[] = R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"Ġab":4},)"
                          R"("merges":["a b",["Ġ","ab"]]})";

std::string WithModel(const std::string& rest) {
  return StrCat("{", kModel, rest.empty() ? "" : ",", rest, "}");
}

TEST(TokenizerJson, ReadsThePipelineAndItsCompanions) {
  const JsonFolder folder;
  folder.Write("tokenizer.json",
               WithModel(R"("added_tokens":[{"id":5,"content":"<s>","special":true},)"
                         R"({"id":7,"content":"</s>","special":true}],)"
                         R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
                         R"({"type":"Digits","individual_digits":true},)"
                         R"({"type":"ByteLevel","add_prefix_space":false}]},)"
                         R"("decoder":{"type":"ByteLevel"},)"
                         R"("post_processor":{"type":"TemplateProcessing","single":[)"
                         R"({"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A"}}],)"
                         R"("special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]}}})"));
  folder.Write("tokenizer_config.json",
               R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","chat_template":"x"})");
  folder.Write("generation_config.json", R"({"eos_token_id":[7,2]})");
  auto t = folder.Load();
  ASSERT_TRUE(t.ok()) << t.error().message;
  EXPECT_EQ((*t)->Encode("ab ab</s>"), (Ids{5, 2, 4, 7}));
  EXPECT_EQ((*t)->vocab_size(), 8);
  EXPECT_EQ((*t)->TokenBytes(6), "");  // a hole
  EXPECT_EQ((*t)->bos_id(), 5);
  EXPECT_EQ((*t)->end_ids(), (Ids{7, 2}));
  EXPECT_EQ((*t)->chat_template(), "x");
  EXPECT_EQ((*t)->Decode(Ids{2, 4, 7}), "ab ab");
  folder.Write("chat_template.jinja", "y");
  folder.Write("tokenizer_config.json", R"({"eos_token":"</s>","add_eos_token":true})");
  t = folder.Load();
  EXPECT_EQ((*t)->chat_template(), "y");
  EXPECT_EQ((*t)->Encode("a"), (Ids{0, 7}));
}

TEST(TokenizerJson, RefusesBadInputNamingTheField) {
  const std::pair<std::string, const char*> rows[] = {
      {"", "not valid JSON"},
      {"[]", "is no JSON object"},
      {"{}", "model: is no object"},
      {R"({"model":{"type":"Unigram"}})", "model: model \"Unigram\" is not known"},
      {R"({"model":{"vocab":{"a":-1}}})", "model.vocab[\"a\"]: token id -1"},
      {R"({"model":{"vocab":{"a":2147483648}}})", "token id 2147483648"},
      {R"({"model":{"vocab":{"a":1.5}}})", "is no token id"},
      {R"({"model":{"vocab":{"a":0,"b":0}}})", "id 0 stands twice"},
      {R"({"model":{"vocab":{"a":0,"a":1}}})", "duplicate key"},
      {R"({"model":{"vocab":{"\ud800":0}}})", "not valid JSON"},
      {R"({"model":{"vocab":{"a":0},"merges":["a"]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"vocab":{"a":0},"merges":["a a a"]}})", "model.merges[0]"},
      {R"({"model":{"vocab":{"a":0},"merges":[["a","x"]]}})", "merges: entry 0 names a token"},
      {R"({"model":{"vocab":{"a":0},"merges":[["a",1]]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"vocab":{"a":0},"merges":7}})", "model.merges: is no list"},
      {R"({"model":{"vocab":{"a":0},"unk_token":"u"}})", "model.unk_token"},
      {R"({"model":{"vocab":{"a":0},"dropout":0.1}})", "model.dropout"},
      {R"({"model":{"vocab":{}}})", "the vocabulary is empty"},
      {WithModel(R"("added_tokens":[{"id":0,"content":"z"}])"), "id 0 is another token's"},
      {WithModel(R"("added_tokens":[{"id":99999999,"content":"z"}])"), "added_tokens[0].id"},
      {WithModel(R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+"},)"
                 R"("behavior":"Isolated"})"),
       "pre-tokenizer regex \"(a+)+\" is not one of those known"},
      {WithModel(R"("pre_tokenizer":{"type":"Punctuation"})"), "\"Punctuation\" is not known"},
      {WithModel(R"("normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"})"),
       "normalizer \"Precompiled\" is not known"},
      {WithModel(R"("normalizer":{"type":"Replace","pattern":{"String":""},"content":"x"})"),
       "normalizer.pattern.String: empty pattern"},
      {WithModel(R"("decoder":{"type":"WordPiece"})"), "decoder \"WordPiece\" is not known"},
      {WithModel(R"("post_processor":{"type":"TemplateProcessing","single":[)"
                 R"({"SpecialToken":{"id":"x"}}]})"),
       "special_tokens.x.ids: no ids"},
      {WithModel(R"("post_processor":{"type":"BertProcessing"})"), "\"BertProcessing\""},
  };
  const JsonFolder folder;
  EXPECT_NE(folder.Message().find("tokenizer.json: no such file"), std::string::npos);
  for (const auto& [text, expected] : rows) {
    folder.Write("tokenizer.json", text);
    const std::string message = folder.Message();
    EXPECT_NE(message.find(expected), std::string::npos) << text << "\n" << message;
    EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
  }
  // Truncation, padding and empty added tokens do no harm.
  folder.Write("tokenizer.json", WithModel(R"("truncation":{"stride":9,"max_length":1},)"
                                           R"("added_tokens":[{"id":3,"content":""}])"));
  EXPECT_EQ(folder.Message(), "ok");
}

TEST(TokenizerJson, ManyMergesLoadQuickly) {
  std::string vocabulary = R"("a":0,"aa":1)";
  std::string merges;
  for (int i = 0; i < 200'000; ++i) merges += R"(["a","a"],)";
  const JsonFolder folder;
  folder.Write("tokenizer.json", StrCat(R"({"model":{"vocab":{)", vocabulary, R"(},"merges":[)",
                                        merges, R"(["a","a"]]}})"));
  auto t = folder.Load();
  ASSERT_TRUE(t.ok()) << t.error().message;
  EXPECT_EQ((*t)->Encode("aaaaa"), (Ids{1, 1, 0}));
}

}  // namespace
}  // namespace echelon
