#pragma once
// TensorShards: which part of which tensor of a checkpoint one rank needs, from headers alone. The
// one list behind the memory estimate, the progress total and the reading itself.

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/rank_part.h"
#include "common/result.h"

namespace echelon {

struct TensorShardRef {
  const TensorInfo* info = nullptr;
  Range rows, cols;    // of the tensor
  uint64_t bytes = 0;  // that reading it takes, whole blocks
};

class TensorShards {
 public:
  // All three outlive this object.
  TensorShards(const Checkpoint& checkpoint, const ModelConfig& model, const RankPart& part)
      : checkpoint_(checkpoint), model_(model), part_(part) {}

  // An error names what is missing or has another shape than the configuration says.
  Result<TensorShardRef> Find(TensorRole role, int layer) const;
  Result<TensorPiece> Read(const TensorShardRef& shard) const;
  // Everything this rank reads; what is missing is left out (Find reports it).
  std::vector<TensorShardRef> All() const;
  // The role that holds the LM head: kEmbedding where the model is tied and stores no head.
  TensorRole head_role() const;

 private:
  const Checkpoint& checkpoint_;
  const ModelConfig& model_;
  const RankPart& part_;
};

}  // namespace echelon
