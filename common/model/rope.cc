#include "common/model/rope.h"

#include <cmath>
#include <numbers>

#include "common/check.h"

namespace echelon {

namespace {

// Llama 3.1's rule in turns over the trained context: a pair that turns more than `high` times was
// seen in full and stays; fewer than `low` times is slowed by the factor; between is interpolated.
double Llama3(const RopeScaling& s, double frequency) {
  const double turns = s.original_context * frequency / (2.0 * std::numbers::pi);
  const double low = s.low_frequency_factor, high = s.high_frequency_factor;
  if (turns > high) return frequency;
  if (turns < low) return frequency / s.factor;
  const double smooth = (turns - low) / (high - low);
  return (1.0 - smooth) * frequency / s.factor + smooth * frequency;
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const LayerConfig& layer, int head_dim) {
  CHECK(head_dim > 0 && head_dim % 2 == 0);
  const RopeScaling& scaling = layer.rope_scaling;
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = std::pow(layer.rope_theta, -2.0 * static_cast<double>(i) / head_dim);
    switch (scaling.kind) {
      case RopeScalingKind::kNone:
        frequencies[i] = plain;
        break;
      case RopeScalingKind::kLinear:
        frequencies[i] = plain / scaling.factor;
        break;
      case RopeScalingKind::kLlama3:
        frequencies[i] = Llama3(scaling, plain);
        break;
      case RopeScalingKind::kFactors:
        CHECK(scaling.factors.size() == frequencies.size());
        frequencies[i] = plain / scaling.factors[i];
        break;
    }
  }
  return frequencies;
}

}  // namespace echelon
