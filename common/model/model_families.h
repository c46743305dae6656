#pragma once
// The model families this build runs: ONE table. Everything that differs between families in
// reading a configuration is a field of a row; a new family is a new row. Values are those of the
// family's definition in Hugging Face transformers and of GGUF's writers.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/model/gguf.h"
#include "common/model_config.h"

namespace echelon {

class Json;

// Which layers attend to a window of the last positions only.
enum class WindowRule : uint8_t {
  kNone,        // full attention everywhere
  kEveryLayer,  // Mistral: `sliding_window`, where it is stated, holds everywhere
  kFromLayer,   // Qwen: layers from `max_window_layers` on, where `use_sliding_window` is true
  kPattern,     // Gemma 3: every n-th layer is full, the others slide
};

// What a configuration leaves out, as transformers fills it in. 0: it must be stated.
struct ConfigDefaults {
  int d_model = 0, n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, d_ff = 0, vocab = 0;
  int context = 0;
  int window = 4096;
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  double query_scalar = 0.0;  // attention scale is query_scalar^-0.5; 0: head_dim's
};

struct ModelFamily {
  std::string_view name;
  std::string_view gguf_architecture;  // "" where GGUF has none of its own
  std::string_view hf_model_type;      // of config.json or of its text_config
  // llama.cpp's converter reorders the rows of q and k where its runtime rotates neighbours.
  RopePairs gguf_rope_pairs = RopePairs::kHalves;
  Activation activation = Activation::kSilu;
  std::string_view activation_key = "hidden_act";
  bool qkv_bias = false;
  bool qk_norm = false;
  bool post_norms = false;
  bool hf_norm_plus_one = false;  // GGUF has the 1 added already
  bool scaled_embedding = false;  // times sqrt(d_model)
  bool tied_default = false;      // where config.json says nothing about tie_word_embeddings
  WindowRule window = WindowRule::kNone;
  int pattern_default = 0;        // kPattern: every n-th layer is full
  double local_rope_theta = 0.0;  // kPattern: of the sliding layers, which are never scaled
  bool ladder = false;            // config.json's ladder_layers
  ConfigDefaults defaults;
};

std::span<const ModelFamily> ModelFamilies();

// More layers than any model has; a configuration is refused before memory for them is taken.
inline constexpr int kLayersMax = 4096;

// The configuration that GGUF metadata describes, checked. Reads the tensor rope_freqs.weight where
// the file has one. Errors name file and key.
Result<ModelConfig> ConfigFromGguf(const GgufFile& gguf);

// What of config.json's meaning depends on the tensors beside it.
struct StoredTensors {
  TensorFormat embedding = TensorFormat::kBF16;  // Gemma rounds its embedding scale to this
  bool has_head = true;  // where nothing is said, a model without an LM head has a tied one
};
// The configuration that config.json describes, checked; `file` stands in the errors.
Result<ModelConfig> ConfigFromJson(const Json& json, const std::string& file,
                                   const StoredTensors& stored);

// sqrt(d_model) as a value of the stored format (bfloat16 and float16 round; others keep float32).
float EmbeddingScale(int d_model, TensorFormat stored);

}  // namespace echelon
