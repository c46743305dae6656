#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/model/model_families.h"
#include "common/strings.h"

namespace echelon {

namespace {

// Reads "<architecture>.<name>" values with their limits; the metadata is untrusted.
class GgufFields {
 public:
  GgufFields(const GgufFile& gguf, std::string_view architecture)
      : gguf_(gguf), prefix_(StrCat(architecture, ".")) {}

  std::string Key(std::string_view name) const { return prefix_ + std::string(name); }
  bool Has(std::string_view name) const { return gguf_.Has(Key(name)); }

  Result<int> Int(std::string_view name, int64_t least, int64_t most) const {
    const std::string key = Key(name);
    ASSIGN_OR_RETURN(const int64_t value, gguf_.Integer(key));
    if (value >= least && value <= most) return static_cast<int>(value);
    return Corrupt(
        StrCat(gguf_.path(), ": ", key, " = ", value, "; allowed are ", least, " to ", most), key);
  }
  Result<int> IntOr(std::string_view name, int otherwise, int64_t least, int64_t most) const {
    if (!Has(name)) return otherwise;
    return Int(name, least, most);
  }
  Result<double> Positive(std::string_view name) const {
    const std::string key = Key(name);
    ASSIGN_OR_RETURN(const double value, gguf_.Number(key));
    if (std::isfinite(value) && value > 0.0) return value;
    return Corrupt(
        StrCat(gguf_.path(), ": ", key, " = ", value, "; it must be positive and finite"), key);
  }
  Result<double> PositiveOr(std::string_view name, double otherwise) const {
    if (!Has(name)) return otherwise;
    return Positive(name);
  }

 private:
  const GgufFile& gguf_;
  std::string prefix_;
};

Result<const ModelFamily*> FamilyOf(const GgufFile& gguf) {
  constexpr const char* kKey = "general.architecture";
  ASSIGN_OR_RETURN(const std::string_view name, gguf.String(kKey));
  std::vector<std::string> known;
  for (const ModelFamily& family : ModelFamilies()) {
    if (family.gguf_architecture.empty()) continue;
    if (family.gguf_architecture == name) return &family;
    known.emplace_back(family.gguf_architecture);
  }
  const bool printable = name.size() <= 64 && IsValidUtf8(name);
  Error error = Unsupported(StrCat(gguf.path(), ": ", kKey, " is \"",
                                   printable ? name : std::string_view("..."),
                                   "\"; this build runs ", Join(known, ", ")));
  error.field = kKey;
  return error;
}

const TensorInfo* FindTensor(const GgufFile& gguf, std::string_view name) {
  for (const TensorInfo& tensor : gguf.tensors()) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

// Llama 3.1 files list the divisor of every frequency as a tensor.
Result<RopeScaling> ListedFactors(const GgufFile& gguf, const TensorInfo& tensor, int head_dim) {
  RopeScaling scaling{.kind = RopeScalingKind::kFactors};
  if (tensor.format != TensorFormat::kF32 || tensor.rows != 1 || tensor.cols != head_dim / 2) {
    return Corrupt(StrCat(gguf.path(), ": tensor ", tensor.name, " must hold ", head_dim / 2,
                          " float32 values, half the size of a head"),
                   tensor.name);
  }
  scaling.factors.resize(static_cast<size_t>(tensor.cols));
  RETURN_IF_ERROR(
      gguf.file().Read(tensor.offset, std::as_writable_bytes(std::span(scaling.factors))));
  for (const float factor : scaling.factors) {
    if (std::isfinite(factor) && factor > 0.0f) continue;
    return Corrupt(StrCat(gguf.path(), ": tensor ", tensor.name, " holds ", factor,
                          "; factors must be positive and finite"),
                   tensor.name);
  }
  return scaling;
}

Result<RopeScaling> ReadRopeScaling(const GgufFile& gguf, const GgufFields& fields, int head_dim) {
  if (const TensorInfo* listed = FindTensor(gguf, "rope_freqs.weight")) {
    return ListedFactors(gguf, *listed, head_dim);
  }
  RopeScaling scaling;
  std::string_view kind = "none";
  if (fields.Has("rope.scaling.type")) {
    ASSIGN_OR_RETURN(kind, gguf.String(fields.Key("rope.scaling.type")));
  } else if (fields.Has("rope.scale_linear")) {  // the name before 2024
    kind = "linear";
  }
  if (kind == "none") return scaling;
  if (kind != "linear") {
    Error error = Unsupported(StrCat(gguf.path(), ": ", fields.Key("rope.scaling.type"),
                                     " is neither none nor linear; other scalings of GGUF files "
                                     "are not run by this build"));
    error.field = fields.Key("rope.scaling.type");
    return error;
  }
  scaling.kind = RopeScalingKind::kLinear;
  const bool old = !fields.Has("rope.scaling.factor");
  ASSIGN_OR_RETURN(const double factor,
                   fields.Positive(old ? "rope.scale_linear" : "rope.scaling.factor"));
  scaling.factor = static_cast<float>(factor);
  return scaling;
}

// Per layer: whether it slides. A number n makes every n-th layer full; a list says it per layer.
Result<std::vector<bool>> SlidingLayers(const GgufFile& gguf, const GgufFields& fields,
                                        const ModelFamily& family, int n_layers) {
  constexpr const char* kName = "attention.sliding_window_pattern";
  std::vector<bool> sliding(n_layers, true);
  if (family.window != WindowRule::kPattern) return sliding;
  const GgufValue* stated = gguf.Find(fields.Key(kName));
  if (stated != nullptr && stated->type == GgufType::kArray) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> listed, gguf.Integers(stated->key));
    if (listed.size() != sliding.size()) {
      return Corrupt(
          StrCat(gguf.path(), ": ", stated->key, " lists ", listed.size(), " layers of ", n_layers),
          std::string(stated->key));
    }
    for (int i = 0; i < n_layers; ++i) sliding[i] = listed[i] != 0;
    return sliding;
  }
  ASSIGN_OR_RETURN(const int every, fields.IntOr(kName, family.pattern_default, 1, kLayersMax));
  for (int i = 0; i < n_layers; ++i) sliding[i] = (i + 1) % every != 0;
  return sliding;
}

Status ReadLayers(const GgufFile& gguf, const GgufFields& fields, const ModelFamily& family,
                  ModelConfig& config) {
  ASSIGN_OR_RETURN(const int n_layers, fields.Int("block_count", 1, kLayersMax));
  ASSIGN_OR_RETURN(const int window, fields.IntOr("attention.sliding_window", 0, 0, INT32_MAX));
  LayerConfig full;
  ASSIGN_OR_RETURN(full.rope_theta,
                   fields.PositiveOr("rope.freq_base", family.defaults.rope_theta));
  ASSIGN_OR_RETURN(full.rope_scaling, ReadRopeScaling(gguf, fields, config.head_dim));
  LayerConfig local = full;
  if (family.window == WindowRule::kPattern) {
    ASSIGN_OR_RETURN(local.rope_theta,
                     fields.PositiveOr("rope.freq_base_swa", family.local_rope_theta));
    local.rope_scaling = {};
  }
  local.window = window;
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(gguf, fields, family, n_layers));
  for (int i = 0; i < n_layers; ++i) config.layers.push_back(sliding[i] ? local : full);
  return {};
}

Status ReadHeads(const GgufFile& gguf, const GgufFields& fields, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.n_heads, fields.Int("attention.head_count", 1, 4096));
  ASSIGN_OR_RETURN(config.n_kv_heads,
                   fields.IntOr("attention.head_count_kv", config.n_heads, 1, 4096));
  if (!fields.Has("attention.key_length") && config.d_model % config.n_heads != 0) {
    const std::string key = fields.Key("attention.head_count");
    return Corrupt(StrCat(gguf.path(), ": ", key, " = ", config.n_heads, " does not divide ",
                          fields.Key("embedding_length"), " = ", config.d_model),
                   key);
  }
  ASSIGN_OR_RETURN(config.head_dim,
                   fields.IntOr("attention.key_length", config.d_model / config.n_heads, 2, 1024));
  for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
    ASSIGN_OR_RETURN(const int value, fields.IntOr(name, config.head_dim, 0, INT32_MAX));
    if (value == config.head_dim) continue;
    Error error = Unsupported(StrCat(gguf.path(), ": ", fields.Key(name), " = ", value,
                                     " differs from the key size of a head, ", config.head_dim,
                                     "; this build runs models where they are equal"));
    error.field = fields.Key(name);
    return error;
  }
  return {};
}

// The vocabulary is as large as the embedding; what the metadata says must agree.
Status ReadVocabulary(const GgufFile& gguf, const GgufFields& fields, ModelConfig& config) {
  const TensorInfo* embedding = FindTensor(gguf, "token_embd.weight");
  if (embedding == nullptr) {
    return Corrupt(StrCat(gguf.path(), ": the tensor token_embd.weight is missing"),
                   "token_embd.weight");
  }
  const auto rows = static_cast<int>(std::min<int64_t>(embedding->rows, INT32_MAX));
  ASSIGN_OR_RETURN(config.vocab_size, fields.IntOr("vocab_size", rows, 1, INT32_MAX));
  if (config.vocab_size == embedding->rows) return {};
  return Corrupt(StrCat(gguf.path(), ": ", fields.Key("vocab_size"), " = ", config.vocab_size,
                        ", but token_embd.weight has ", embedding->rows, " rows"),
                 fields.Key("vocab_size"));
}

// A split file's first part looks whole but for this.
Status RefuseWhatWeDoNotRun(const GgufFile& gguf, const GgufFields& fields) {
  if (gguf.Has("split.count")) {
    ASSIGN_OR_RETURN(const int64_t parts, gguf.Integer("split.count"));
    if (parts > 1) {
      return Unsupported(StrCat(gguf.path(), ": one of ", parts,
                                " parts; join them first (llama-gguf-split --merge)"));
    }
  }
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping", "expert_count"}) {
    if (!fields.Has(name)) continue;
    ASSIGN_OR_RETURN(const double value, gguf.Number(fields.Key(name)));
    if (value == 0.0) continue;
    Error error = Unsupported(
        StrCat(gguf.path(), ": ", fields.Key(name), " = ", value, " is not run by this build"));
    error.field = fields.Key(name);
    return error;
  }
  return {};
}

// llama.cpp writes no scale for Gemma 3; its runtime knows that of the sizes only 27B (62 layers)
// divides by the model's own width of a head, not by that of the keys.
double QueryScalar(const ModelFamily& family, const ModelConfig& config) {
  const bool gemma_27b = family.window == WindowRule::kPattern && config.n_layers() == 62;
  return gemma_27b ? config.d_model / config.n_heads : config.head_dim;
}

}  // namespace

Result<ModelConfig> ConfigFromGguf(const GgufFile& gguf) {
  ASSIGN_OR_RETURN(const ModelFamily* family, FamilyOf(gguf));
  const GgufFields fields(gguf, family->gguf_architecture);
  RETURN_IF_ERROR(RefuseWhatWeDoNotRun(gguf, fields));
  ModelConfig config;
  config.family = family->name;
  if (gguf.Has("general.name")) {
    ASSIGN_OR_RETURN(const std::string_view name, gguf.String("general.name"));
    if (IsValidUtf8(name)) config.name = name.substr(0, 256);
  }
  ASSIGN_OR_RETURN(config.d_model, fields.Int("embedding_length", 1, INT32_MAX));
  ASSIGN_OR_RETURN(config.d_ff, fields.Int("feed_forward_length", 1, INT32_MAX));
  ASSIGN_OR_RETURN(config.context_max, fields.Int("context_length", 1, INT32_MAX));
  ASSIGN_OR_RETURN(const double eps, fields.Positive("attention.layer_norm_rms_epsilon"));
  config.norm_eps = static_cast<float>(eps);
  RETURN_IF_ERROR(ReadHeads(gguf, fields, config));
  RETURN_IF_ERROR(ReadVocabulary(gguf, fields, config));
  RETURN_IF_ERROR(ReadLayers(gguf, fields, *family, config));

  config.activation = family->activation;
  config.rope_pairs = family->gguf_rope_pairs;
  config.qkv_bias = family->qkv_bias;
  config.qk_norm = family->qk_norm;
  config.post_norms = family->post_norms;
  // GGUF runtimes scale in float32 whatever the embedding is stored in.
  if (family->scaled_embedding) {
    config.embedding_scale = EmbeddingScale(config.d_model, TensorFormat::kF32);
  }
  ASSIGN_OR_RETURN(
      const double scale,
      fields.PositiveOr("attention.scale", 1.0 / std::sqrt(QueryScalar(*family, config))));
  config.attention_scale = static_cast<float>(scale);
  config.tied_embeddings = FindTensor(gguf, "output.weight") == nullptr;
  if (Status valid = config.Validate(); !valid.ok()) {
    return Corrupt(StrCat(gguf.path(), ": ", valid.error().message), valid.error().field);
  }
  return config;
}

}  // namespace echelon
