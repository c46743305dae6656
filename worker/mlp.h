#pragma once
// The MLP sub-block: this rank's FFN columns of one layer, normed input to partial output.

#include "common/model_config.h"
#include "kernels/backend.h"
#include "worker/weights.h"

namespace echelon {

struct MlpScratch {
  Tensor gate_up;  // (rows_max, 2 F)
  Tensor hidden;   // (rows_max, F)
};

// x (T, d_model), normed; out (T, d_model), to be summed over tp. F > 0.
void RunMlp(const ModelConfig& model, const LayerWeights& w, Tensor x, const MlpScratch& scratch,
            Backend& backend, Tensor out);

}  // namespace echelon
