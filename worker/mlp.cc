#include "worker/mlp.h"

#include <algorithm>

namespace echelon {

void RunMlp(const ModelConfig& model, const LayerWeights& w, Tensor x, Tensor scratch,
            Backend& backend, Tensor out) {
  const GatedKind kind =
      model.activation == Activation::kSilu ? GatedKind::kSilu : GatedKind::kGeluTanh;
  for (int64_t begin = 0; begin < x.rows; begin += scratch.rows) {
    const int64_t end = std::min(begin + scratch.rows, x.rows);
    const Tensor gate_up = scratch.Rows(0, end - begin);
    const Tensor hidden = gate_up.Cols(0, gate_up.cols / 2);
    backend.GatedMatMul(x.Rows(begin, end), *w.gate_up, *w.down, kind, gate_up, hidden);
    backend.MatMul(hidden, *w.down, nullptr, out.Rows(begin, end));
  }
}

}  // namespace echelon
