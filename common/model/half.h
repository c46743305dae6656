#pragma once
// IEEE 754 half precision as a storage format, in portable integer arithmetic.

#include <bit>
#include <cstdint>

namespace echelon {

// Rounded to nearest even; beyond 65504 infinity, below 2^-24 zero. No NaN goes in.
inline uint16_t HalfFromFloat(float value) {
  const auto word = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(word >> 16 & 0x8000);
  const uint32_t magnitude = word & 0x7fffffff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 rounds up to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: subnormal, steps of 2^-24
    // Adding 0.5 aligns the last bit of a float with 2^-24; the hardware rounds.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

}  // namespace echelon
