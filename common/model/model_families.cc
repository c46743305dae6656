#include "common/model/model_families.h"

#include <bit>
#include <cmath>

namespace echelon {

namespace {

constexpr ModelFamily kFamilies[] = {
    {.name = "llama",
     .gguf_architecture = "llama",
     .hf_model_type = "llama",
     .gguf_rope_pairs = RopePairs::kInterleaved},
    // A GGUF file of a Mistral model calls itself "llama" and is read by that row.
    {.name = "mistral", .hf_model_type = "mistral", .window = WindowRule::kEveryLayer},
    {.name = "qwen2",
     .gguf_architecture = "qwen2",
     .hf_model_type = "qwen2",
     .qkv_bias = true,
     .window = WindowRule::kFromLayer},
    {.name = "qwen3",
     .gguf_architecture = "qwen3",
     .hf_model_type = "qwen3",
     .qk_norm = true,
     .window = WindowRule::kFromLayer,
     .defaults = {.head_dim = 128}},
    {.name = "gemma3",
     .gguf_architecture = "gemma3",
     .hf_model_type = "gemma3_text",
     .activation = Activation::kGeluTanh,
     .activation_key = "hidden_activation",
     .qk_norm = true,
     .post_norms = true,
     .hf_norm_plus_one = true,
     .scaled_embedding = true,
     .tied_default = true,
     .window = WindowRule::kPattern,
     .pattern_default = 6,
     .local_rope_theta = 10000.0,
     .defaults = {.d_model = 2304,
                  .n_layers = 26,
                  .n_heads = 8,
                  .n_kv_heads = 4,
                  .head_dim = 256,
                  .d_ff = 9216,
                  .vocab = 262208,
                  .context = 131072,
                  .rope_theta = 1e6,
                  .query_scalar = 256.0}},
    // Ladder Residual (Zhang et al. 2025): Llama's tensors, another block schedule.
    {.name = "llamaLadder", .hf_model_type = "llamaLadder", .ladder = true},
};

// `value` rounded to nearest even with `bits` stored mantissa bits (of float32's 23).
float RoundMantissa(float value, int bits) {
  const auto word = std::bit_cast<uint32_t>(value);
  const int drop = 23 - bits;
  const uint32_t half = (1u << (drop - 1)) - 1 + ((word >> drop) & 1);
  return std::bit_cast<float>((word + half) >> drop << drop);
}

}  // namespace

std::span<const ModelFamily> ModelFamilies() { return kFamilies; }

float EmbeddingScale(int d_model, TensorFormat stored) {
  const auto scale = static_cast<float>(std::sqrt(static_cast<double>(d_model)));
  if (stored == TensorFormat::kBF16) return RoundMantissa(scale, 7);
  if (stored == TensorFormat::kF16) return RoundMantissa(scale, 10);
  return scale;
}

}  // namespace echelon
