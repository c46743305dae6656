#pragma once
// The arithmetic of a Gumbel-max draw (worker/gumbel.h says what that is), the same on every
// backend: noise of a token, and which tokens need not be looked at. Pure functions, any thread;
// constexpr, so that kernels of a device may call them.

#include <cstdint>

#include "common/random.h"
#include "kernels/exact_math.h"

namespace echelon {

inline constexpr double kGumbelMax = 23.0;  // the greatest, at u = 1 - 2^-33, is 33 ln 2 = 22.9

constexpr double GumbelOf(uint32_t bits) { return -ExactLog(-ExactLog(UniformFromBits(bits))); }

// False only where relative logit + noise cannot reach `best`. -log(-log u) <= -log(1 - u), so to
// gain g the noise needs 1 - u <= e^-g < 2^-floor(g * log2 e): few random bits decide, and the two
// logarithms are taken for a handful of tokens only.
constexpr bool MayReach(double best, double relative, uint32_t bits) {
  const double gain = (best - relative) * 1.4426;  // a little less than log2 e
  if (!(gain >= 1.0)) return true;
  const uint64_t missing = (uint64_t{1} << 32) - bits;  // (1 - u) * 2^32, and 1/2
  return gain <= 33.0 && missing <= ((uint64_t{1} << 32) >> static_cast<int>(gain)) + 1;
}

}  // namespace echelon
