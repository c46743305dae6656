#include "worker/logit_scan.h"

#include <algorithm>
#include <limits>

#include "kernels/exact_math.h"

namespace echelon {

namespace {
constexpr size_t kLanes = 16;  // floats: four vectors of 128 bits in flight hide the latency of max
}  // namespace

float MaxLogit(std::span<const float> logits) {
  float lanes[kLanes];
  std::fill(std::begin(lanes), std::end(lanes), -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
    }
  }
  float max = -std::numeric_limits<float>::infinity();
  for (const float lane : lanes) max = lane > max ? lane : max;
  for (; i < logits.size(); ++i) max = logits[i] > max ? logits[i] : max;
  return max;
}

int64_t FirstEqual(std::span<const float> logits, float value) {
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    int equal = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) equal |= logits[i + lane] == value;
    if (equal != 0) break;
  }
  for (; i < logits.size(); ++i) {
    if (logits[i] == value) return static_cast<int64_t>(i);
  }
  return -1;
}

void Masses(std::span<const float> logits, double max, double inverse_temperature, uint64_t* out) {
  for (size_t i = 0; i < logits.size(); ++i) {
    out[i] = MassOf((static_cast<double>(logits[i]) - max) * inverse_temperature);
  }
}

uint64_t MassSum(std::span<const float> logits, double max, double inverse_temperature) {
  uint64_t sum = 0;
  for (const float logit : logits) {
    sum += MassOf((static_cast<double>(logit) - max) * inverse_temperature);
  }
  return sum;
}

}  // namespace echelon
