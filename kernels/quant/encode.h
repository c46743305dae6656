#pragma once
// What the encoders of the 32-element formats share. Simple ones: nearest code, no search.

#include <algorithm>
#include <cmath>

#include "kernels/quant/quant.h"

namespace echelon {

// Value of largest magnitude, sign kept.
inline float ExtremeOf(const float* values) {
  float extreme = 0.0f;
  for (int i = 0; i < kCodeGroup; ++i) {
    if (std::fabs(values[i]) > std::fabs(extreme)) extreme = values[i];
  }
  return extreme;
}

// Nearest code of value = scale * (code - offset) + min within [0, code_max].
inline uint8_t NearestCode(float value, float scale, float min, int offset, int code_max) {
  if (scale == 0.0f) return static_cast<uint8_t>(offset);
  const float code = std::nearbyint((value - min) / scale) + static_cast<float>(offset);
  return static_cast<uint8_t>(std::clamp(code, 0.0f, static_cast<float>(code_max)));
}

}  // namespace echelon
