#include "common/rank_part.h"

#include <algorithm>

namespace echelon {

RankPart PartOf(const ModelConfig& model, const ParallelLayout& layout, int rank) {
  RankPart part;
  part.rank = rank;
  part.at = layout.PositionOf(rank);
  part.layers = LayersOfStage(model, layout, part.at.pp);
  part.shard = ShardOf(model, layout, part.at.tp);
  for (int tp = 0; tp < layout.tp; ++tp) {
    const auto vocab = static_cast<int>(ShardOf(model, layout, tp).vocab.size());
    part.vocab_max = std::max(part.vocab_max, vocab);
  }
  part.first_stage = part.at.pp == 0;
  part.last_stage = part.at.pp == layout.pp - 1;
  return part;
}

}  // namespace echelon
