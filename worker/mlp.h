#pragma once
// The MLP sub-block: this rank's FFN columns of one layer, normed input to partial output.

#include "common/model_config.h"
#include "kernels/backend.h"
#include "worker/weights.h"

namespace echelon {

// x (T, d_model), normed; out (T, d_model), to be summed over tp. F > 0. scratch (R, 2 F): R rows
// are run at a time.
void RunMlp(const ModelConfig& model, const LayerWeights& w, Tensor x, Tensor scratch,
            Backend& backend, Tensor out);

}  // namespace echelon
