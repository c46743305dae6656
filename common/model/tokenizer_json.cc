// The tokenizer of a folder in Hugging Face's form: tokenizer.json, and what transformers adds from
// tokenizer_config.json, generation_config.json, config.json and chat_template.jinja.

#include "common/model/tokenizer_json.h"

#include <algorithm>
#include <filesystem>

#include "common/model/bpe_tokenizer.h"
#include "common/model/file.h"

namespace echelon {

namespace {

// Gemma 3's tokenizer.json, the largest we know, has 33 MB.
constexpr uint64_t kTokenizerBytesMax = uint64_t{64} << 20;
constexpr uint64_t kConfigBytesMax = uint64_t{4} << 20;

std::string FileIn(const std::string& folder, std::string_view name) {
  return (std::filesystem::path(folder) / name).string();
}

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// The parsed file, or null where there is none.
Result<Json> ReadJson(const std::string& path, uint64_t bytes_max) {
  if (!Exists(path)) return Json();
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, bytes_max));
  return Json::Parse(text, path, {.bytes_max = bytes_max});
}

Status ReadVocabulary(const JsonField& field, TokenizerData& data) {
  if (field.value == nullptr || !field.value->is_object()) return field.Bad("is no object");
  const Json::Object& members = field.value->as_object();
  std::vector<bool> taken;
  for (const auto& [token, value] : members) {
    const JsonField entry{&value, field.file, StrCat(field.path, "[\"", ForMessage(token), "\"]")};
    ASSIGN_OR_RETURN(const int32_t id, entry.Id());
    if (static_cast<size_t>(id) >= data.tokens.size()) {
      data.tokens.resize(static_cast<size_t>(id) + 1);
      taken.resize(data.tokens.size());
    }
    if (taken[id]) return entry.Bad(StrCat("id ", id, " stands twice"));
    taken[id] = true;
    data.tokens[id] = token;
  }
  return {};
}

Status ReadMerges(const JsonField& field, TokenizerData& data) {
  ASSIGN_OR_RETURN(const Json::Array* merges, field.Array());
  data.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& merge = (*merges)[i];
    if (merge.is_string()) {
      const std::string& text = merge.as_string();
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return field.Element(i).Bad("is not two tokens with a space between");
      }
      data.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.as_array().size() == 2 &&
               merge.as_array()[0].is_string() && merge.as_array()[1].is_string()) {
      data.merges.emplace_back(merge.as_array()[0].as_string(), merge.as_array()[1].as_string());
    } else {
      return field.Element(i).Bad("is not two tokens");
    }
  }
  return {};
}

Status ReadModel(const JsonField& model, TokenizerData& data) {
  if (model.value == nullptr || !model.value->is_object()) return model.Bad("is no object");
  ASSIGN_OR_RETURN(const std::string type, model.Member("type").Text("BPE"));
  if (type != "BPE") {
    return model.NotSupported(StrCat("model \"", ForMessage(type), "\" is not known (BPE is)"));
  }
  for (std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string text, model.Member(affix).Text());
    if (!text.empty()) return model.Member(affix).NotSupported("is not supported");
  }
  const JsonField dropout = model.Member("dropout");
  if (dropout.present() && !(dropout.value->is_number() && dropout.value->as_double() == 0)) {
    return dropout.NotSupported("is not supported");
  }
  ASSIGN_OR_RETURN(data.byte_fallback, model.Member("byte_fallback").Flag(false));
  ASSIGN_OR_RETURN(data.fuse_unknown, model.Member("fuse_unk").Flag(false));
  ASSIGN_OR_RETURN(data.ignore_merges, model.Member("ignore_merges").Flag(false));
  RETURN_IF_ERROR(ReadVocabulary(model.Member("vocab"), data));
  RETURN_IF_ERROR(ReadMerges(model.Member("merges"), data));
  ASSIGN_OR_RETURN(const std::string unknown, model.Member("unk_token").Text());
  if (!unknown.empty()) {
    const auto it = std::find(data.tokens.begin(), data.tokens.end(), unknown);
    if (it == data.tokens.end()) return model.Member("unk_token").Bad("is not in the vocabulary");
    data.unknown_id = static_cast<int32_t>(it - data.tokens.begin());
  }
  return {};
}

Status ReadAdded(const JsonField& field, TokenizerData& data) {
  ASSIGN_OR_RETURN(const Json::Array* tokens, field.Array());
  for (size_t i = 0; i < tokens->size(); ++i) {
    const JsonField entry = field.Element(i);
    AddedToken token;
    ASSIGN_OR_RETURN(token.id, entry.Member("id").Id());
    ASSIGN_OR_RETURN(token.text, entry.Member("content").Text());
    ASSIGN_OR_RETURN(token.special, entry.Member("special").Flag(false));
    ASSIGN_OR_RETURN(token.normalized, entry.Member("normalized").Flag(false));
    ASSIGN_OR_RETURN(token.single_word, entry.Member("single_word").Flag(false));
    ASSIGN_OR_RETURN(token.lstrip, entry.Member("lstrip").Flag(false));
    ASSIGN_OR_RETURN(token.rstrip, entry.Member("rstrip").Flag(false));
    if (token.text.empty()) continue;
    if (static_cast<size_t>(token.id) >= data.tokens.size()) {
      data.tokens.resize(static_cast<size_t>(token.id) + 1);
    }
    std::string& place = data.tokens[token.id];
    if (!place.empty() && place != token.text) {
      return entry.Bad(StrCat("id ", token.id, " is another token's"));
    }
    place = token.text;
    data.added.push_back(std::move(token));
  }
  return {};
}

// "text" or {"content": "text"}; the id of that token, -1 where there is none.
Result<int32_t> NamedToken(const JsonField& field, const TokenizerData& data) {
  if (!field.present()) return -1;
  ASSIGN_OR_RETURN(const std::string text,
                   field.value->is_object() ? field.Member("content").Text() : field.Text());
  const auto it = std::find(data.tokens.begin(), data.tokens.end(), text);
  if (text.empty() || it == data.tokens.end()) return -1;
  return static_cast<int32_t>(it - data.tokens.begin());
}

// A number or a list of numbers.
Status ReadIds(const JsonField& field, std::vector<int32_t>& ids) {
  if (!field.present()) return {};
  if (!field.value->is_array()) {
    ASSIGN_OR_RETURN(const int32_t id, field.Id());
    ids.push_back(id);
    return {};
  }
  for (size_t i = 0; i < field.value->as_array().size(); ++i) {
    ASSIGN_OR_RETURN(const int32_t id, field.Element(i).Id());
    ids.push_back(id);
  }
  return {};
}

Status ReadTemplate(const std::string& folder, const JsonField& field, TokenizerData& data) {
  const std::string own_file = FileIn(folder, "chat_template.jinja");
  if (Exists(own_file)) {
    ASSIGN_OR_RETURN(data.chat_template, ReadTextFile(own_file, kConfigBytesMax));
    return {};
  }
  if (!field.present() || field.value->is_string()) {
    ASSIGN_OR_RETURN(data.chat_template, field.Text());
    return {};
  }
  ASSIGN_OR_RETURN(const Json::Array* named, field.Array());
  for (size_t i = 0; i < named->size(); ++i) {
    ASSIGN_OR_RETURN(const std::string name, field.Element(i).Member("name").Text());
    if (name != "default") continue;
    ASSIGN_OR_RETURN(data.chat_template, field.Element(i).Member("template").Text());
  }
  return {};
}

Status ReadConfigs(const std::string& folder, TokenizerData& data) {
  const std::string tokenizer_path = FileIn(folder, "tokenizer_config.json");
  const std::string generation_path = FileIn(folder, "generation_config.json");
  const std::string model_path = FileIn(folder, "config.json");
  ASSIGN_OR_RETURN(const Json tokenizer_json, ReadJson(tokenizer_path, kConfigBytesMax));
  ASSIGN_OR_RETURN(const Json generation_json, ReadJson(generation_path, kConfigBytesMax));
  ASSIGN_OR_RETURN(const Json model_json, ReadJson(model_path, kConfigBytesMax));
  const JsonField tokenizer{&tokenizer_json, tokenizer_path, ""};

  ASSIGN_OR_RETURN(data.bos_id, NamedToken(tokenizer.Member("bos_token"), data));
  ASSIGN_OR_RETURN(const int32_t eos, NamedToken(tokenizer.Member("eos_token"), data));
  RETURN_IF_ERROR(ReadIds(JsonField{&generation_json, generation_path, ""}.Member("eos_token_id"),
                          data.end_ids));
  if (data.end_ids.empty()) {
    RETURN_IF_ERROR(
        ReadIds(JsonField{&model_json, model_path, ""}.Member("eos_token_id"), data.end_ids));
  }
  if (eos >= 0 && std::find(data.end_ids.begin(), data.end_ids.end(), eos) == data.end_ids.end()) {
    data.end_ids.push_back(eos);
  }
  // Where one of the two flags stands, transformers puts its own post-processor in place.
  const JsonField add_bos = tokenizer.Member("add_bos_token");
  const JsonField add_eos = tokenizer.Member("add_eos_token");
  if (add_bos.present() || add_eos.present()) {
    ASSIGN_OR_RETURN(const bool bos_wanted, add_bos.Flag(false));
    ASSIGN_OR_RETURN(const bool eos_wanted, add_eos.Flag(false));
    data.prefix.clear();
    data.suffix.clear();
    if (bos_wanted && data.bos_id >= 0) data.prefix.push_back(data.bos_id);
    if (eos_wanted && eos >= 0) data.suffix.push_back(eos);
  }
  return ReadTemplate(folder, tokenizer.Member("chat_template"), data);
}

}  // namespace

Result<std::string> JsonField::Text(std::string_view fallback) const {
  if (!present()) return std::string(fallback);
  if (!value->is_string()) return Result<std::string>(Bad("is no text"));
  return value->as_string();
}

Result<bool> JsonField::Flag(bool fallback) const {
  if (!present()) return fallback;
  if (!value->is_bool()) return Bad("is neither true nor false");
  return value->as_bool();
}

Result<int32_t> JsonField::Id() const {
  if (value == nullptr || !value->is_int()) return Bad("is no token id");
  if (value->as_int() < 0 || value->as_int() >= kVocabularyMax) {
    return Bad(StrCat("token id ", value->as_int(), " is negative or not below the limit of ",
                      kVocabularyMax));
  }
  return static_cast<int32_t>(value->as_int());
}

Result<const Json::Array*> JsonField::Array() const {
  static const Json::Array kEmpty;
  if (!present()) return &kEmpty;
  if (!value->is_array()) return Bad("is no list");
  return &value->as_array();
}

Result<TokenizerData> ReadTokenizerJson(const std::string& folder) {
  TokenizerData data;
  data.source = FileIn(folder, "tokenizer.json");
  if (!Exists(data.source)) return NotFound(StrCat(data.source, ": no such file"));
  {
    ASSIGN_OR_RETURN(const Json root, ReadJson(data.source, kTokenizerBytesMax));
    const JsonField field{&root, data.source, ""};
    if (!root.is_object()) return Corrupt(StrCat(data.source, ": is no JSON object"));
    RETURN_IF_ERROR(ReadModel(field.Member("model"), data));
    RETURN_IF_ERROR(ReadAdded(field.Member("added_tokens"), data));
    RETURN_IF_ERROR(ReadNormalizer(field.Member("normalizer"), data));
    RETURN_IF_ERROR(ReadPreTokenizer(field.Member("pre_tokenizer"), data));
    RETURN_IF_ERROR(ReadDecoder(field.Member("decoder"), data));
    RETURN_IF_ERROR(ReadPostProcessor(field.Member("post_processor"), data));
  }
  RETURN_IF_ERROR(ReadConfigs(folder, data));
  return data;
}

}  // namespace echelon
