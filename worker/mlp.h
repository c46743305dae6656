#pragma once
// The MLP sub-block: this rank's FFN columns of one layer, normed input to partial output.

#include "common/model_config.h"
#include "kernels/backend.h"
#include "worker/weights.h"

namespace echelon {

// Rows that pass through the MLP together. Their 2 F columns are the widest activations of a model:
// 128 rows of 3072 floats, 1.5 MiB, stay in a second-level cache between the two products; the
// 10 MiB of a whole step of 512 do not.
inline constexpr int64_t kMlpRowsMax = 128;

// x (T, d_model), normed; out (T, d_model), to be summed over tp. F > 0. scratch (R, 2 F): R rows
// are run at a time.
void RunMlp(const ModelConfig& model, const LayerWeights& w, Tensor x, Tensor scratch,
            Backend& backend, Tensor out);

}  // namespace echelon
