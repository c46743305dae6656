#pragma once
// How many weights of a layer and of the LM head a shard has. Pure function.

#include "common/model_config.h"
#include "common/parallel_layout.h"

namespace echelon {

// Elements of one rank's matrices, as the shard table cuts them.
struct ShardElements {
  double attention = 0.0;  // of one layer
  double mlp = 0.0;        // of one layer
  double head = 0.0;
  bool operator==(const ShardElements&) const = default;
};
ShardElements ElementsOf(const ModelConfig& model, const TensorShard& shard);

}  // namespace echelon
