#pragma once
// The attention sub-block: this rank's heads of one layer, normed input to partial output.

#include <vector>

#include "common/model_config.h"
#include "common/rank_part.h"
#include "kernels/backend.h"
#include "worker/sequence_parallel.h"
#include "worker/weights.h"

namespace echelon {

// Room for the intermediate values of one step, reused by every layer.
struct AttentionScratch {
  Tensor qkv;      // (rows_max, (H + 2 KV) * D)
  Tensor context;  // (rows_max, H * D)
};

class AttentionBlock {
 public:
  // All outlive the block. `sharing`: who keeps which positions, or null where this rank keeps all.
  AttentionBlock(const ModelConfig& model, const RankPart& part, Backend& backend, KvCache& cache,
                 SequenceParallel* sharing);

  // x (T, d_model), normed; out (T, d_model): this rank's heads' share of the output projection, to
  // be summed over tp. `layer` counts within the stage. The rows are part `part` of the step: later
  // parts read keys and values of earlier ones.
  void Run(int layer, const LayerWeights& w, Tensor x, const BatchRows& rows, int part,
           const AttentionScratch& scratch, Tensor out);

 private:
  const ModelConfig& model_;
  const RankPart& part_;
  Backend& backend_;
  KvCache& cache_;
  SequenceParallel* sharing_;
  std::vector<std::vector<double>> inverse_frequencies_;  // per layer of the stage
};

}  // namespace echelon
