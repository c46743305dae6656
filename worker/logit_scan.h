#pragma once
// Passes over a row of logits, a whole vocabulary long: written in lanes without branches, so that
// they run as vector code. Pure functions, any thread.

#include <cstdint>
#include <span>

namespace echelon {

// The greatest; NaN counts for nothing; -infinity of none.
float MaxLogit(std::span<const float> logits);
// Index of the first logit that equals `value`, or -1.
int64_t FirstEqual(std::span<const float> logits, float value);
// out[i] = mass of (logits[i] - max) * inverse_temperature.
void Masses(std::span<const float> logits, double max, double inverse_temperature, uint64_t* out);
// Sum of the masses of (logit - max) * inverse_temperature.
uint64_t MassSum(std::span<const float> logits, double max, double inverse_temperature);

}  // namespace echelon
