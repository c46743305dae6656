#include "common/model_config.h"

#include <cmath>

#include "common/strings.h"

namespace echelon {

const char* ScheduleName(ScheduleKind kind) {
  static constexpr const char* kNames[] = {"standard", "ladder", "parallel", "desync"};
  return kNames[static_cast<int>(kind)];
}

Status ModelConfig::Validate() const {
  constexpr int kWidthMax = 1 << 20;
  constexpr int kLayersMax = 4096;
  const auto in_range = [](const char* field, int64_t value, int64_t most) -> Status {
    if (value >= 1 && value <= most) return {};
    return Corrupt(
        StrCat("model configuration: ", field, " = ", value, "; allowed are 1 to ", most), field);
  };
  RETURN_IF_ERROR(in_range("hidden_size", d_model, kWidthMax));
  RETURN_IF_ERROR(in_range("num_attention_heads", n_heads, 4096));
  RETURN_IF_ERROR(in_range("num_key_value_heads", n_kv_heads, n_heads));
  RETURN_IF_ERROR(in_range("head_dim", head_dim, 1024));
  RETURN_IF_ERROR(in_range("intermediate_size", d_ff, kWidthMax));
  RETURN_IF_ERROR(in_range("vocab_size", vocab_size, 1 << 24));
  RETURN_IF_ERROR(in_range("max_position_embeddings", context_max, 1 << 30));
  RETURN_IF_ERROR(in_range("num_hidden_layers", n_layers(), kLayersMax));
  if (n_heads % n_kv_heads != 0) {
    return Corrupt(StrCat("model configuration: ", n_heads, " query heads do not group over ",
                          n_kv_heads, " KV heads"),
                   "num_key_value_heads");
  }
  if (head_dim % 2 != 0) {
    return Corrupt(StrCat("model configuration: head_dim = ", head_dim, " is odd"), "head_dim");
  }
  if (!(norm_eps > 0.0f && norm_eps < 1.0f)) {
    return Corrupt(StrCat("model configuration: norm epsilon ", norm_eps, " is not in (0, 1)"),
                   "rms_norm_eps");
  }
  if (!(std::isfinite(attention_scale) && attention_scale > 0.0f)) {
    return Corrupt(StrCat("model configuration: attention scale ", attention_scale), "head_dim");
  }
  for (const LayerConfig& layer : layers) {
    if (!(std::isfinite(layer.rope_theta) && layer.rope_theta > 0.0)) {
      return Corrupt(StrCat("model configuration: rope_theta = ", layer.rope_theta,
                            "; it must be positive and finite"),
                     "rope_theta");
    }
    if (layer.window < 0) return Corrupt("model configuration: negative window", "sliding_window");
  }
  return {};
}

}  // namespace echelon
