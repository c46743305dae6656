#pragma once
// The arithmetic of the thresholds of top_k and top_p, the same on every backend: a radix search
// over order-preserving keys of the logits, eight bits a round, from the greatest down
// (worker/vocab_threshold.h says what for). Pure functions, any thread; constexpr, so that kernels
// of a device may call them.

#include <algorithm>
#include <bit>
#include <cstdint>

namespace echelon {

inline constexpr int kDigitBits = 8;
inline constexpr int kDigits = 1 << kDigitBits;
inline constexpr int kSearchRounds = 32 / kDigitBits;

// Larger for a larger logit; equal for equal logits (-0 = 0); NaN is below everything.
constexpr uint32_t OrderKey(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  const auto sign = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31);  // all ones or none
  return logit == logit ? bits ^ (sign | 0x80000000u) : 0;
}

// ceil(share * total) at least 1, in integers: share as a multiple of 2^-30.
constexpr uint64_t ShareOf(float share, uint64_t total) {
  const auto units = static_cast<uint64_t>(static_cast<double>(share) * (1 << 30) + 0.5);
  const auto product = static_cast<unsigned __int128>(total) * units;
  const auto target = static_cast<uint64_t>((product + (1 << 30) - 1) >> 30);
  return std::clamp<uint64_t>(target, 1, std::max<uint64_t>(total, 1));
}

}  // namespace echelon
