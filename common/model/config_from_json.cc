#include <cmath>
#include <optional>

#include "common/json.h"
#include "common/model/json_fields.h"
#include "common/model/model_families.h"
#include "common/strings.h"

namespace echelon {

namespace {

// Features that change the numbers and that no family of ours has: each must be absent, null, false
// or zero.
constexpr const char* kRefusedFields[] = {
    "attention_bias",         "mlp_bias",
    "attn_logit_softcapping", "final_logit_softcapping",
    "quantization_config",    "use_bidirectional_attention",
};

Result<const ModelFamily*> FamilyOf(const JsonFields& fields) {
  ASSIGN_OR_RETURN(const std::string type, fields.Text("model_type"));
  std::vector<std::string> known;
  for (const ModelFamily& family : ModelFamilies()) {
    if (family.hf_model_type == type) return &family;
    known.emplace_back(family.hf_model_type);
  }
  return fields.Refuse(
      "model_type", StrCat("\"", type, "\" is not run by this build; it runs ", Join(known, ", ")));
}

// Reads rope_parameters (newer) or rope_scaling (older) of one kind of layer.
Status ReadRopeObject(const JsonFields& rope, bool theta_too, LayerConfig& layer) {
  if (theta_too && rope.Has("rope_theta")) {
    ASSIGN_OR_RETURN(layer.rope_theta, rope.Positive("rope_theta"));
  }
  ASSIGN_OR_RETURN(const double part, rope.PositiveOr("partial_rotary_factor", 1.0));
  if (part != 1.0) return rope.Refuse("partial_rotary_factor", "is not 1");
  const char* key = rope.Has("rope_type") ? "rope_type" : "type";
  if (!rope.Has(key)) return {};
  ASSIGN_OR_RETURN(const std::string type, rope.Text(key));
  if (type == "default") return {};
  if (type != "linear" && type != "llama3") {
    return rope.Refuse(key, StrCat("\"", type,
                                   "\" is not run by this build; it runs default, "
                                   "linear, llama3"));
  }
  RopeScaling& scaling = layer.rope_scaling;
  ASSIGN_OR_RETURN(const double factor, rope.Positive("factor"));
  scaling.factor = static_cast<float>(factor);
  scaling.kind = RopeScalingKind::kLinear;
  if (type == "linear") return {};
  scaling.kind = RopeScalingKind::kLlama3;
  ASSIGN_OR_RETURN(const double low, rope.Positive("low_freq_factor"));
  ASSIGN_OR_RETURN(const double high, rope.Positive("high_freq_factor"));
  ASSIGN_OR_RETURN(scaling.original_context,
                   rope.Int("original_max_position_embeddings", 1, 1 << 30));
  if (low >= high) return rope.Fail("low_freq_factor", "is not below high_freq_factor");
  scaling.low_frequency_factor = static_cast<float>(low);
  scaling.high_frequency_factor = static_cast<float>(high);
  return {};
}

// `full` and `local`: the two kinds of layers, which differ where the family slides in a pattern.
Status ReadRope(const JsonFields& fields, const ModelFamily& family, LayerConfig& full,
                LayerConfig& local) {
  ASSIGN_OR_RETURN(full.rope_theta, fields.PositiveOr("rope_theta", family.defaults.rope_theta));
  const bool newer = fields.Has("rope_parameters");
  const char* key = newer ? "rope_parameters" : "rope_scaling";
  std::optional<JsonFields> rope;
  if (fields.Has(key)) {
    ASSIGN_OR_RETURN(rope, fields.Object(key));
  }
  if (family.window != WindowRule::kPattern) {
    if (rope) RETURN_IF_ERROR(ReadRopeObject(*rope, true, full));
    local = full;
    return {};
  }
  ASSIGN_OR_RETURN(local.rope_theta,
                   fields.PositiveOr("rope_local_base_freq", family.local_rope_theta));
  if (!rope) return {};
  if (!newer) return ReadRopeObject(*rope, false, full);
  for (const auto& [name, layer] : {std::pair<const char*, LayerConfig*>{"full_attention", &full},
                                    {"sliding_attention", &local}}) {
    if (!rope->Has(name)) continue;
    ASSIGN_OR_RETURN(const JsonFields part, rope->Object(name));
    RETURN_IF_ERROR(ReadRopeObject(part, true, *layer));
  }
  return {};
}

// Per layer: does it attend to a window only?
Result<std::vector<bool>> SlidingLayers(const JsonFields& fields, const ModelFamily& family,
                                        int n_layers) {
  std::vector<bool> sliding(n_layers, family.window == WindowRule::kEveryLayer);
  if (family.window == WindowRule::kNone) return sliding;
  if (fields.Has("layer_types")) {
    ASSIGN_OR_RETURN(const std::vector<std::string> types, fields.Texts("layer_types"));
    if (types.size() != sliding.size()) {
      return fields.Fail("layer_types", StrCat("lists ", types.size(), " layers of ", n_layers));
    }
    for (int i = 0; i < n_layers; ++i) {
      sliding[i] = types[i] == "sliding_attention";
      if (sliding[i] || types[i] == "full_attention") continue;
      return fields.Refuse("layer_types", StrCat("names a kind for layer ", i,
                                                 " that this build does not run; it runs "
                                                 "full_attention and sliding_attention"));
    }
  } else if (family.window == WindowRule::kFromLayer) {
    ASSIGN_OR_RETURN(const int first, fields.IntOr("max_window_layers", 28, 0, INT32_MAX));
    for (int i = first; i < n_layers; ++i) sliding[i] = true;
  } else if (family.window == WindowRule::kPattern) {
    const char* key =
        fields.Has("sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
    ASSIGN_OR_RETURN(const int every, fields.IntOr(key, family.pattern_default, 1, kLayersMax));
    for (int i = 0; i < n_layers; ++i) sliding[i] = (i + 1) % every != 0;
  }
  return sliding;
}

// Positions a sliding layer sees; 0: all.
Result<int> ReadWindow(const JsonFields& fields, const ModelFamily& family) {
  if (family.window == WindowRule::kNone) return 0;
  if (family.window == WindowRule::kFromLayer) {
    ASSIGN_OR_RETURN(const bool used, fields.BoolOr("use_sliding_window", false));
    if (!used) return 0;
  }
  if (fields.IsNull("sliding_window")) return 0;
  return fields.IntOr("sliding_window", family.defaults.window, 1, INT32_MAX);
}

// An int n: the last n layers; a list: their indices; nothing: all layers.
Status ReadLadder(const JsonFields& fields, ModelConfig& config) {
  constexpr const char* kKey = "ladder_layers";
  const int layers = config.n_layers();
  config.schedule = ScheduleKind::kLadder;
  if (fields.IsList(kKey)) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> listed, fields.Integers(kKey));
    for (const int64_t index : listed) {
      if (index < 0 || index >= layers || config.layers[index].ladder) {
        return fields.Fail(kKey,
                           StrCat("names layer ", index, " twice or outside 0 to ", layers - 1));
      }
      config.layers[index].ladder = true;
    }
    return {};
  }
  ASSIGN_OR_RETURN(const int last, fields.IntOr(kKey, layers, 0, layers));
  for (int i = layers - last; i < layers; ++i) config.layers[i].ladder = true;
  return {};
}

Status ReadSizes(const JsonFields& fields, const ModelFamily& family, ModelConfig& config) {
  const ConfigDefaults& d = family.defaults;
  ASSIGN_OR_RETURN(config.d_model, fields.IntOr("hidden_size", d.d_model, 1, 1 << 20));
  ASSIGN_OR_RETURN(config.d_ff, fields.IntOr("intermediate_size", d.d_ff, 1, 1 << 20));
  ASSIGN_OR_RETURN(config.vocab_size, fields.IntOr("vocab_size", d.vocab, 1, 1 << 24));
  ASSIGN_OR_RETURN(config.context_max,
                   fields.IntOr("max_position_embeddings", d.context, 1, 1 << 30));
  ASSIGN_OR_RETURN(config.n_heads, fields.IntOr("num_attention_heads", d.n_heads, 1, 4096));
  const int kv_default = d.n_kv_heads > 0 ? d.n_kv_heads : config.n_heads;
  ASSIGN_OR_RETURN(config.n_kv_heads, fields.IntOr("num_key_value_heads", kv_default, 1, 4096));
  int head_default = d.head_dim;
  if (head_default == 0 && !fields.Has("head_dim")) {
    if (config.d_model % config.n_heads != 0) {
      return fields.Fail("num_attention_heads",
                         StrCat("= ", config.n_heads, " does not divide hidden_size = ",
                                config.d_model, ", and head_dim is not stated"));
    }
    head_default = config.d_model / config.n_heads;
  }
  ASSIGN_OR_RETURN(config.head_dim, fields.IntOr("head_dim", head_default, 2, 1024));
  ASSIGN_OR_RETURN(const double eps, fields.PositiveOr("rms_norm_eps", d.norm_eps));
  config.norm_eps = static_cast<float>(eps);
  double query_scalar = config.head_dim;
  if (d.query_scalar > 0.0) {
    ASSIGN_OR_RETURN(query_scalar, fields.PositiveOr("query_pre_attn_scalar", d.query_scalar));
  }
  config.attention_scale = static_cast<float>(1.0 / std::sqrt(query_scalar));
  return {};
}

Status CheckActivation(const JsonFields& fields, const ModelFamily& family) {
  const bool gelu = family.activation == Activation::kGeluTanh;
  const std::string wanted = gelu ? "gelu_pytorch_tanh" : "silu";
  const std::string key(family.activation_key);
  if (!fields.Has(key)) return {};
  ASSIGN_OR_RETURN(const std::string stated, fields.Text(key));
  if (stated == wanted) return {};
  return fields.Refuse(key, StrCat("\"", stated, "\" is not run by this build for ", family.name,
                                   " models; it runs ", wanted));
}

// End-of-text ids belong to the tokenizer; here they must only be ids. One, a list, or none.
Status CheckEndIds(const JsonFields& fields, int vocab_size) {
  constexpr const char* kKey = "eos_token_id";
  if (!fields.Has(kKey)) return {};
  std::vector<int64_t> ids;
  if (fields.IsList(kKey)) {
    ASSIGN_OR_RETURN(ids, fields.Integers(kKey));
  } else {
    ASSIGN_OR_RETURN(const int id, fields.Int(kKey, 0, vocab_size - 1));
    ids.push_back(id);
  }
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return fields.Fail(kKey, StrCat("names the token ", id, " of ", vocab_size));
    }
  }
  return {};
}

Result<ModelConfig> ReadConfig(const JsonFields& fields, const StoredTensors& stored) {
  ASSIGN_OR_RETURN(const ModelFamily* family, FamilyOf(fields));
  for (const char* key : kRefusedFields) {
    if (!fields.IsUnset(key)) return fields.Refuse(key, "is set, which this build does not run");
  }
  RETURN_IF_ERROR(CheckActivation(fields, *family));
  ModelConfig config;
  config.family = family->name;
  RETURN_IF_ERROR(ReadSizes(fields, *family, config));
  RETURN_IF_ERROR(CheckEndIds(fields, config.vocab_size));

  ASSIGN_OR_RETURN(const int n_layers,
                   fields.IntOr("num_hidden_layers", family->defaults.n_layers, 1, kLayersMax));
  LayerConfig full, local;
  RETURN_IF_ERROR(ReadRope(fields, *family, full, local));
  ASSIGN_OR_RETURN(local.window, ReadWindow(fields, *family));
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(fields, *family, n_layers));
  for (int i = 0; i < n_layers; ++i) config.layers.push_back(sliding[i] ? local : full);
  if (family->ladder) RETURN_IF_ERROR(ReadLadder(fields, config));

  config.activation = family->activation;
  config.rope_pairs = RopePairs::kHalves;
  config.qkv_bias = family->qkv_bias;
  config.qk_norm = family->qk_norm;
  config.post_norms = family->post_norms;
  config.norm_plus_one = family->hf_norm_plus_one;
  if (family->scaled_embedding)
    config.embedding_scale = EmbeddingScale(config.d_model, stored.embedding);
  ASSIGN_OR_RETURN(config.tied_embeddings,
                   fields.BoolOr("tie_word_embeddings", family->tied_default || !stored.has_head));
  return config;
}

}  // namespace

Result<ModelConfig> ConfigFromJson(const Json& json, const std::string& file,
                                   const StoredTensors& stored) {
  if (!json.is_object()) return Corrupt(StrCat(file, ": no JSON object"), "config.json");
  JsonFields fields(json, file, "");
  // A model that also sees pictures keeps the text model's configuration inside.
  if (fields.Has("text_config")) {
    ASSIGN_OR_RETURN(fields, fields.Object("text_config"));
  }
  ASSIGN_OR_RETURN(ModelConfig config, ReadConfig(fields, stored));
  if (const Json* name = json.Find("_name_or_path"); name != nullptr && name->is_string()) {
    config.name = name->as_string().substr(0, 256);
  }
  if (Status valid = config.Validate(); !valid.ok()) {
    return Corrupt(StrCat(file, ": ", valid.error().message), valid.error().field);
  }
  return config;
}

}  // namespace echelon
