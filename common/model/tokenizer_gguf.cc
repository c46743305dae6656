// The tokenizer a GGUF file describes. A GGUF has no pipeline, only names of known ones; what each
// name means here is what transformers makes of it, because that is what a model's ids are compared
// with. Source: transformers, integrations/gguf; llama.cpp, src/llama-vocab.cpp for the keys.

#include <algorithm>
#include <array>
#include <optional>

#include "common/model/bpe_tokenizer.h"
#include "common/model/byte_level.h"
#include "common/model/gguf.h"
#include "common/model/utf8.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁

// tokenizer.ggml.token_type
enum TokenType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4 };

// tokenizer.ggml.pre: how byte-level vocabularies cut their text.
struct PreRow {
  std::string_view pre;
  std::string_view regex;  // a name known to SplitRegex
  bool ignore_merges = false;
  bool adds_bos = false;  // where the file does not say
};
constexpr PreRow kPreRows[] = {
    {"default", "gpt2"},
    {"gpt-2", "gpt2"},
    {"gpt2", "gpt2"},
    // The original of SmolLM cuts digits off first; Hugging Face's reading of its GGUF does not,
    // and differs only where two spaces or a superscript stand before a digit.
    {"smollm", "gpt2"},
    {"llama-bpe", "llama3", true, true},
    {"llama3", "llama3", true, true},
    {"llama-v3", "llama3", true, true},
    {"falcon3", "llama3"},
    {"dbrx", "llama3"},
    {"smaug-bpe", "llama3"},
    {"pixtral", "tekken"},
    {"tekken", "tekken", true, true},
    {"qwen2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"megrez", "qwen2"},
    {"qwen35", "qwen3.5"},
    {"gpt-4o", "gpt-4o", true},
    {"llama4", "gpt-4o", false, true},
};

class Reader {
 public:
  Reader(const GgufFile& gguf, TokenizerData& data) : gguf_(gguf), data_(data) {}
  Status Read();

 private:
  Status ReadVocabulary();
  Status ReadByteLevel();
  Status ReadSentencePiece();
  Status ReadAdded();
  Status ReadEnds();
  Result<int32_t> TokenId(std::string_view key) const;  // -1 where the file has none
  Result<bool> Flag(std::string_view key, bool fallback) const;

  const GgufFile& gguf_;
  TokenizerData& data_;
  std::vector<int64_t> types_;
  bool adds_bos_ = false;
};

Result<int32_t> Reader::TokenId(std::string_view key) const {
  if (!gguf_.Has(key)) return -1;
  ASSIGN_OR_RETURN(const int64_t id, gguf_.Integer(key));
  if (id < 0 || id >= static_cast<int64_t>(data_.tokens.size())) {
    return Corrupt(
        StrCat(data_.source, ": ", key, " = ", id, " is no token; there are ", data_.tokens.size()),
        std::string(key));
  }
  return static_cast<int32_t>(id);
}

Result<bool> Reader::Flag(std::string_view key, bool fallback) const {
  if (!gguf_.Has(key)) return fallback;
  return gguf_.Bool(key);
}

Status Reader::ReadVocabulary() {
  ASSIGN_OR_RETURN(const auto tokens, gguf_.Strings("tokenizer.ggml.tokens"));
  if (tokens.size() > static_cast<size_t>(kVocabularyMax)) {
    return Unsupported(StrCat(data_.source, ": tokenizer.ggml.tokens: ", tokens.size(),
                              " tokens, more than the limit of ", kVocabularyMax));
  }
  data_.tokens.assign(tokens.begin(), tokens.end());
  for (size_t id = 0; id < data_.tokens.size(); ++id) {
    if (!IsValidUtf8(data_.tokens[id])) {
      return Corrupt(StrCat(data_.source, ": tokenizer.ggml.tokens: token ", id, " is not UTF-8"),
                     "tokenizer.ggml.tokens");
    }
  }
  if (gguf_.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(types_, gguf_.Integers("tokenizer.ggml.token_type"));
    if (types_.size() != data_.tokens.size()) {
      return Corrupt(StrCat(data_.source, ": tokenizer.ggml.token_type has ", types_.size(),
                            " elements for ", data_.tokens.size(), " tokens"),
                     "tokenizer.ggml.token_type");
    }
  }
  if (!gguf_.Has("tokenizer.ggml.merges")) return {};
  ASSIGN_OR_RETURN(const auto merges, gguf_.Strings("tokenizer.ggml.merges"));
  data_.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    if (space == std::string_view::npos) {
      return Corrupt(StrCat(data_.source, ": tokenizer.ggml.merges: entry ", i,
                            " is not two tokens with a space between"),
                     "tokenizer.ggml.merges");
    }
    data_.merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
  }
  return {};
}

Status Reader::ReadByteLevel() {
  std::string_view pre = "default";
  if (gguf_.Has("tokenizer.ggml.pre")) {
    ASSIGN_OR_RETURN(pre, gguf_.String("tokenizer.ggml.pre"));
  }
  const auto row = std::find_if(std::begin(kPreRows), std::end(kPreRows),
                                [&](const PreRow& r) { return r.pre == pre; });
  if (row == std::end(kPreRows)) {
    return Unsupported(StrCat(data_.source, ": tokenizer.ggml.pre: pre-tokenizer \"",
                              ForMessage(pre), "\" is not known"));
  }
  data_.byte_level = true;
  data_.ignore_merges = row->ignore_merges;
  adds_bos_ = row->adds_bos;
  if (data_.merges.empty() && !row->ignore_merges) {
    return Corrupt(StrCat(data_.source, ": tokenizer.ggml.merges is missing"),
                   "tokenizer.ggml.merges");
  }
  ASSIGN_OR_RETURN(const bool prefix, Flag("tokenizer.ggml.add_space_prefix", false));
  if (prefix) data_.pre_tokenizer.push_back({PreTokenizerStep::Kind::kPrefix});
  data_.pre_tokenizer.push_back({PreTokenizerStep::Kind::kRegex, std::string(row->regex)});
  return {};
}

Status Reader::ReadSentencePiece() {
  ASSIGN_OR_RETURN(const std::string_view family, gguf_.String("general.architecture"));
  adds_bos_ = true;
  data_.byte_fallback = true;
  data_.fuse_unknown = true;
  data_.space_marks = true;
  const NormalizerStep marks{NormalizerStep::Kind::kReplace, " ", std::string(kSpaceMark)};
  if (family.starts_with("gemma")) {
    // Runs of spaces are stored as spaces, and looked up as marks. The scores do not follow the
    // order of the merges (runs of line breaks have -1000); the order of the tokens does.
    data_.normalizer = {marks};
    data_.scores.resize(data_.tokens.size());
    for (size_t id = 0; id < data_.tokens.size(); ++id) {
      std::string& token = data_.tokens[id];
      if (!token.empty() && token.find_first_not_of(' ') == std::string::npos) {
        const size_t count = token.size();
        token.clear();
        for (size_t i = 0; i < count; ++i) token += kSpaceMark;
      }
      data_.scores[id] = -static_cast<float>(id);  // exact: ids have 20 bits, a float 24
    }
    return {};
  }
  if (data_.merges.empty()) {
    ASSIGN_OR_RETURN(data_.scores, gguf_.Floats("tokenizer.ggml.scores"));
    const auto bad = std::find_if(data_.scores.begin(), data_.scores.end(),
                                  [](float score) { return !(score == score); });
    if (bad != data_.scores.end()) {
      return Corrupt(StrCat(data_.source, ": tokenizer.ggml.scores: element ",
                            bad - data_.scores.begin(), " is not a number"),
                     "tokenizer.ggml.scores");
    }
  }
  ASSIGN_OR_RETURN(const bool prefix, Flag("tokenizer.ggml.add_space_prefix", true));
  data_.drops_leading_space = prefix;
  if (family == "phi3") {
    data_.normalizer = {{NormalizerStep::Kind::kPrepend, "", std::string(kSpaceMark)}, marks};
    return {};
  }
  PreTokenizerStep meta{PreTokenizerStep::Kind::kMetaspace, std::string(kSpaceMark)};
  meta.prepend = prefix ? PreTokenizerStep::Prepend::kFirst : PreTokenizerStep::Prepend::kNever;
  meta.split = false;
  data_.pre_tokenizer.push_back(meta);
  return {};
}

Status Reader::ReadAdded() {
  std::vector<bool> named(data_.tokens.size(), false);  // special because the file names its role
  for (const char* key :
       {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"}) {
    ASSIGN_OR_RETURN(const int32_t id, TokenId(key));
    if (id >= 0) named[id] = true;
  }
  for (size_t id = 0; id < data_.tokens.size(); ++id) {
    const int64_t type = id < types_.size() ? types_[id] : int64_t{kNormal};
    const bool special = named[id] || type == kControl || type == kUnknown;
    if (!special && type != kUserDefined) continue;
    const std::string& text = data_.tokens[id];
    // Runs of spaces of a SentencePiece vocabulary are merged, not found: see ReadSentencePiece.
    const bool marks = data_.space_marks && text.starts_with(kSpaceMark);
    if (text.empty() || marks) continue;
    data_.added.push_back({static_cast<int32_t>(id), text, special});
  }
  return {};
}

Status Reader::ReadEnds() {
  ASSIGN_OR_RETURN(data_.bos_id, TokenId("tokenizer.ggml.bos_token_id"));
  ASSIGN_OR_RETURN(const int32_t eos, TokenId("tokenizer.ggml.eos_token_id"));
  ASSIGN_OR_RETURN(const int32_t eot, TokenId("tokenizer.ggml.eot_token_id"));
  if (eos >= 0) data_.end_ids.push_back(eos);
  if (eot >= 0 && eot != eos) data_.end_ids.push_back(eot);
  ASSIGN_OR_RETURN(const bool add_bos, Flag("tokenizer.ggml.add_bos_token", adds_bos_));
  ASSIGN_OR_RETURN(const bool add_eos, Flag("tokenizer.ggml.add_eos_token", false));
  if (add_bos && data_.bos_id >= 0) data_.prefix.push_back(data_.bos_id);
  if (add_eos && eos >= 0) data_.suffix.push_back(eos);
  if (gguf_.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(data_.chat_template, gguf_.String("tokenizer.chat_template"));
  }
  return {};
}

Status Reader::Read() {
  data_.source = gguf_.path();
  ASSIGN_OR_RETURN(const std::string_view model, gguf_.String("tokenizer.ggml.model"));
  RETURN_IF_ERROR(ReadVocabulary());
  if (model == "gpt2") {
    RETURN_IF_ERROR(ReadByteLevel());
  } else if (model == "llama") {
    RETURN_IF_ERROR(ReadSentencePiece());
  } else {
    return Unsupported(StrCat(data_.source, ": tokenizer.ggml.model: tokenizer \"",
                              ForMessage(model), "\" is not known (gpt2 and llama are)"));
  }
  ASSIGN_OR_RETURN(data_.unknown_id, data_.byte_level ? Result<int32_t>(-1)
                                                      : TokenId("tokenizer.ggml.unknown_token_id"));
  RETURN_IF_ERROR(ReadAdded());
  return ReadEnds();
}

}  // namespace

Result<TokenizerData> ReadGgufTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> gguf, GgufFile::Open(path));
  TokenizerData data;
  RETURN_IF_ERROR(Reader(*gguf, data).Read());
  return data;
}

}  // namespace echelon
