#include "common/model/file_checkpoint.h"
#include "common/model/fingerprint.h"
#include "common/model/gguf.h"
#include "common/model/model_families.h"
#include "common/model/open_checkpoint.h"
#include "common/strings.h"

namespace echelon {

namespace {

// The lists of the vocabulary are as long as each other and not longer than the embedding, and
// every id points into it. (What the tokens mean is the tokenizer's to check.)
Status CheckVocabulary(const GgufFile& gguf, const ModelConfig& config) {
  const GgufValue* tokens = gguf.Find("tokenizer.ggml.tokens");
  if (tokens == nullptr) return {};
  const auto fail = [&](std::string_view key, const std::string& what) {
    return Corrupt(StrCat(gguf.path(), ": ", key, " ", what), std::string(key));
  };
  if (tokens->type != GgufType::kArray || tokens->element != GgufType::kString) {
    return fail(tokens->key, "is no list of texts");
  }
  if (tokens->count > static_cast<uint64_t>(config.vocab_size)) {
    return fail(tokens->key, StrCat("has ", tokens->count, " tokens, but the embedding ",
                                    config.vocab_size, " rows"));
  }
  struct Companion {
    const char* key;
    GgufType element;
  };
  for (const Companion& companion : {Companion{"tokenizer.ggml.scores", GgufType::kFloat32},
                                     Companion{"tokenizer.ggml.token_type", GgufType::kInt32}}) {
    const GgufValue* value = gguf.Find(companion.key);
    if (value == nullptr) continue;
    if (value->type != GgufType::kArray || value->element != companion.element) {
      return fail(value->key, StrCat("is no list of ", GgufTypeName(companion.element)));
    }
    if (value->count != tokens->count) {
      return fail(value->key,
                  StrCat("has ", value->count, " elements for ", tokens->count, " tokens"));
    }
  }
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id",
                          "tokenizer.ggml.eot_token_id"}) {
    if (!gguf.Has(key)) continue;
    ASSIGN_OR_RETURN(const int64_t id, gguf.Integer(key));
    if (id < 0 || id >= static_cast<int64_t>(tokens->count)) {
      return fail(key, StrCat("= ", id, " is no token; there are ", tokens->count));
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> gguf, GgufFile::Open(path));
  CheckpointParts parts;
  ASSIGN_OR_RETURN(parts.config, ConfigFromGguf(*gguf));
  RETURN_IF_ERROR(CheckVocabulary(*gguf, parts.config));
  parts.scheme = NameScheme::kGguf;
  parts.path = path;
  for (const TensorInfo& tensor : gguf->tensors()) {
    // Already a part of the configuration.
    if (tensor.name != "rope_freqs.weight") parts.tensors.push_back(tensor);
  }
  Fingerprint fingerprint;
  fingerprint.Add(gguf->header());
  fingerprint.Add(gguf->file().size());
  parts.fingerprint = fingerprint.Hex();
  parts.files.push_back(gguf->ReleaseFile());
  return MakeFileCheckpoint(std::move(parts));
}

}  // namespace echelon
