#include "worker/mlp.h"

namespace echelon {

void RunMlp(const ModelConfig& model, const LayerWeights& w, Tensor x, const MlpScratch& scratch,
            Backend& backend, Tensor out) {
  const Tensor gate_up = scratch.gate_up.Rows(0, x.rows);
  const Tensor hidden = scratch.hidden.Rows(0, x.rows);
  const GatedKind kind =
      model.activation == Activation::kSilu ? GatedKind::kSilu : GatedKind::kGeluTanh;
  backend.MatMul(x, *w.gate_up, nullptr, gate_up);
  backend.GatedActivation(gate_up, kind, hidden);
  backend.MatMul(hidden, *w.down, nullptr, out);
}

}  // namespace echelon
