#pragma once
// RankPart: what one rank of the world is and holds, as a pure function of model, layout and rank.

#include "common/model_config.h"
#include "common/parallel_layout.h"

namespace echelon {

struct RankPart {
  int rank = 0;
  RankPosition at;
  Range layers;       // of this pipeline stage
  TensorShard shard;  // of every layer, by tensor-parallel index
  int vocab_max = 0;  // of the stage's ranks the greatest vocab()
  bool first_stage = false;
  bool last_stage = false;

  int heads() const { return static_cast<int>(shard.heads.size()); }
  int kv_heads() const { return static_cast<int>(shard.kv_heads.size()); }
  int ff() const { return static_cast<int>(shard.ff.size()); }
  int vocab() const { return static_cast<int>(shard.vocab.size()); }
  int n_layers() const { return static_cast<int>(layers.size()); }
};

// The layout must be valid for the model (ParallelLayout::Validate).
RankPart PartOf(const ModelConfig& model, const ParallelLayout& layout, int rank);

}  // namespace echelon
