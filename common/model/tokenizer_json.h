#pragma once
// Reading tokenizer.json, the parts: what tokenizer_json.cc and tokenizer_steps.cc share.

#include <string>
#include <string_view>

#include "common/json.h"
#include "common/model/tokenizer_data.h"
#include "common/model/utf8.h"
#include "common/result.h"
#include "common/strings.h"

namespace echelon {

// A place in the file: the value and its name in errors.
struct JsonField {
  const Json* value = nullptr;  // null where the file has none (or null)
  std::string file;
  std::string path;  // "model.vocab"

  bool present() const { return value != nullptr && !value->is_null(); }
  JsonField Member(std::string_view key) const {
    return {value == nullptr ? nullptr : value->Find(key), file,
            path.empty() ? ForMessage(key) : StrCat(path, ".", ForMessage(key))};
  }
  JsonField Element(size_t index) const {
    return {&value->as_array()[index], file, StrCat(path, "[", index, "]")};
  }
  Error Bad(const std::string& what) const {
    return Corrupt(StrCat(file, ": ", path, ": ", what), path);
  }
  Error NotSupported(const std::string& what) const {
    return Unsupported(StrCat(file, ": ", path, ": ", what));
  }
  // The text, number or flag; where the file has none, `fallback`; errors name the field.
  Result<std::string> Text(std::string_view fallback = "") const;
  Result<bool> Flag(bool fallback) const;
  Result<int32_t> Id() const;                // 0 <= id < kVocabularyMax
  Result<const Json::Array*> Array() const;  // an empty one where the file has none
};

// normalizer, pre_tokenizer, decoder and post_processor of tokenizer.json (tokenizer_steps.cc).
Status ReadNormalizer(const JsonField& field, TokenizerData& data);
Status ReadPreTokenizer(const JsonField& field, TokenizerData& data);
Status ReadDecoder(const JsonField& field, TokenizerData& data);
Status ReadPostProcessor(const JsonField& field, TokenizerData& data);

}  // namespace echelon
