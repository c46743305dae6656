#include "common/shard_elements.h"

namespace echelon {

ShardElements ElementsOf(const ModelConfig& model, const TensorShard& shard) {
  const double d = model.d_model, head_dim = model.head_dim;
  const auto heads = static_cast<double>(shard.heads.size());
  const auto kv_heads = static_cast<double>(shard.kv_heads.size());
  return {d * head_dim * (2 * heads + 2 * kv_heads), 3 * d * static_cast<double>(shard.ff.size()),
          d * static_cast<double>(shard.vocab.size())};
}

}  // namespace echelon
