#include "tests/support/tiny_tokenizer.h"

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

const char* const kTinyChatTemplate =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

namespace {

// GPT-2's printable stand-in for a byte: itself where printable, else the next free code point from
// 256 on.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> out;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) ||
                           (byte >= 0xae && byte <= 0xff);
    const int code = printable ? byte : next++;
    if (code < 0x80) {
      out.push_back(std::string(1, static_cast<char>(code)));
    } else {  // all below U+0800
      out.push_back({static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))});
    }
  }
  return out;
}

}  // namespace

TinyVocabulary MakeTinyVocabulary(int size) {
  TinyVocabulary out;
  out.tokens = ByteTokens();
  for (const auto& [left, right] : {std::pair("h", "e"), {"l", "l"}, {"he", "ll"}, {"hell", "o"}}) {
    out.tokens.push_back(StrCat(left, right));
    out.merges.push_back(StrCat(left, " ", right));
  }
  out.first_special = static_cast<int>(out.tokens.size());
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    out.tokens.push_back(special);
  }
  out.first_filler = static_cast<int>(out.tokens.size());
  CHECK(size >= out.first_filler);
  for (int i = out.first_filler; i < size; ++i) out.tokens.push_back(StrCat("<filler", i, ">"));
  return out;
}

Json TinyTokenizerJson(const TinyVocabulary& vocabulary) {
  Json ids = Json::MakeObject(), merges = Json::MakeArray(), added = Json::MakeArray();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    // Set would search each time; the tokens are distinct.
    ids.as_object().emplace_back(token, Json(static_cast<int64_t>(id)));
    const int index = static_cast<int>(id);
    if (index < vocabulary.first_special || index >= vocabulary.first_filler) continue;
    added.Append(Json::Object{{"id", index},
                              {"content", token},
                              {"single_word", false},
                              {"lstrip", false},
                              {"rstrip", false},
                              {"normalized", false},
                              {"special", true}});
  }
  for (const std::string& merge : vocabulary.merges) merges.Append(merge);
  const Json byte_level = Json::Object{{"type", "ByteLevel"},
                                       {"add_prefix_space", false},
                                       {"trim_offsets", true},
                                       {"use_regex", true}};
  return Json::Object{{"version", "1.0"},
                      {"truncation", nullptr},
                      {"padding", nullptr},
                      {"added_tokens", std::move(added)},
                      {"normalizer", nullptr},
                      {"pre_tokenizer", byte_level},
                      {"post_processor", nullptr},
                      {"decoder", byte_level},
                      {"model", Json::Object{{"type", "BPE"},
                                             {"dropout", nullptr},
                                             {"unk_token", nullptr},
                                             {"continuing_subword_prefix", nullptr},
                                             {"end_of_word_suffix", nullptr},
                                             {"fuse_unk", false},
                                             {"byte_fallback", false},
                                             {"vocab", std::move(ids)},
                                             {"merges", std::move(merges)}}}};
}

}  // namespace echelon
