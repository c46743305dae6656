#pragma once
// Passes over a row of logits, a whole vocabulary long: written in lanes without branches, so that
// they run as vector code. Pure functions, any thread.

#include <bit>
#include <cstdint>
#include <span>

namespace echelon {

// Larger for a larger logit; equal for equal logits (-0 = 0); NaN is below everything.
inline uint32_t OrderKey(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  const auto sign = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31);  // all ones or none
  return logit == logit ? bits ^ (sign | 0x80000000u) : 0;
}

// The greatest; NaN counts for nothing; -infinity of none.
float MaxLogit(std::span<const float> logits);
// Index of the first logit that equals `value`, or -1.
int64_t FirstEqual(std::span<const float> logits, float value);
// out[i] = mass of (logits[i] - max) * inverse_temperature.
void Masses(std::span<const float> logits, double max, double inverse_temperature, uint64_t* out);
// Sum of the masses of (logit - max) * inverse_temperature.
uint64_t MassSum(std::span<const float> logits, double max, double inverse_temperature);

}  // namespace echelon
