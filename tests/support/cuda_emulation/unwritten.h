#pragma once
// What memory holds that nobody has written since it was allocated, or since its block began: no
// number as float, double, float16 or bfloat16, as an integer an index far beyond everything, as a
// pointer none. So whoever uses it is found by the result or by a fault.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace echelon::emulation {

inline constexpr uint16_t kUnwritten = 0x7fff;

// At an even address; an even number of bytes.
inline void FillUnwritten(void* memory, size_t bytes) {
  auto* const pairs = static_cast<uint16_t*>(memory);
  std::fill(pairs, pairs + bytes / sizeof(uint16_t), kUnwritten);
}
inline bool IsUnwritten(const char* memory, size_t bytes) {
  return std::all_of(memory, memory + bytes, [](const char& byte) {
    const unsigned half = reinterpret_cast<uintptr_t>(&byte) % 2;
    return static_cast<uint8_t>(byte) == (kUnwritten >> (8 * half) & 0xff);
  });
}

}  // namespace echelon::emulation
