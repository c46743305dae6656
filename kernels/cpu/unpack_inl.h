#pragma once
// One group of a panel as the words and floats that a product multiplies (panel_group.h has the
// layout). A format is a type here: everything about it is known when the kernels are compiled.

#include <cstdint>
#include <utility>

#include "kernels/cpu/kernels.h"

namespace echelon::cpu {
namespace {

template <GroupLayout kLayoutValue, int kOffsetValue>
struct PanelFormat {
  static constexpr GroupLayout kLayout = kLayoutValue;
  static constexpr int kOffset = kOffsetValue;  // that is still in the panel's codes
};

// body.operator()<i>() for i in [0, kCount).
template <int kCount, typename Body>
[[gnu::always_inline]] inline void ForNumbers(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body.template operator()<i>(), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

// Code less offset for pair i: columns 2i and 2i + 1 of 16 rows.
template <typename V, typename Format, int i>
[[gnu::always_inline]] inline typename V::I CodePair(const std::byte* group) {
  constexpr int kBits = Format::kLayout.code_bits;
  if constexpr (kBits == 8) {
    return V::WidenBytes(group + 2 * kPanelRows * i);
  } else {
    const auto line = V::LoadWords(group + kLineBytes * (i / 4));
    auto codes = V::template MoveBits<4 * (i % 4), 4, 0>(line);
    if constexpr (kBits > 4) {
      constexpr int kHigh = kBits - 4, kPerByte = 8 / kHigh, kNth = i / 4 * 2 + i % 2;
      constexpr int kFrom = i % 4 / 2 * 8 + kHigh * (kNth % kPerByte);
      const auto high = V::LoadWords(group + kLineBytes * (4 + kNth / kPerByte));
      codes = V::Or(codes, V::template MoveBits<kFrom, kHigh, 4>(high));
    }
    if constexpr (Format::kOffset != 0) codes = V::SubWords(codes, Format::kOffset);
    return codes;
  }
}

// Codes of 4 to 6 bits, offset and all, as bytes: lane r holds columns 8q + {0, 4, 1, 5} of row r
// (half 0) or 8q + {2, 6, 3, 7} (half 1), where i = 2q + half.
template <typename V, typename Format, int i>
[[gnu::always_inline]] inline typename V::I CodeBytes(const std::byte* group) {
  constexpr int kHigh = Format::kLayout.code_bits - 4;
  const auto line = V::LoadWords(group + kLineBytes * (i / 2));
  auto codes = V::template MoveBitsOfBytes<4 * (i % 2), 4, 0>(line);
  if constexpr (kHigh > 0) {
    constexpr int kPerByte = 8 / kHigh;
    const auto high = V::LoadWords(group + kLineBytes * (4 + i / kPerByte));
    codes = V::Or(codes, V::template MoveBitsOfBytes<kHigh*(i % kPerByte), kHigh, 4>(high));
  }
  return codes;
}

// Number `index` of a group: 0 is the scale; 1 the second scale or the minimum.
template <typename V, typename Format, int index>
[[gnu::always_inline]] inline typename V::F GroupNumber(const std::byte* group,
                                                        const std::byte* super) {
  constexpr GroupLayout kLayout = Format::kLayout;
  const std::byte* numbers =
      group + kLayout.CodeBytes() + index * kPanelRows * kLayout.ScaleBytes();
  if constexpr (!kLayout.super_scales) {
    return V::LoadHalf(reinterpret_cast<const uint16_t*>(numbers));
  } else {
    constexpr int kSuper = kLayout.split_scales ? 0 : index;
    const auto* halves = reinterpret_cast<const uint16_t*>(super) + kSuper * kPanelRows;
    return V::Mul(V::LoadHalf(halves), V::LoadInt8(numbers));
  }
}

}  // namespace
}  // namespace echelon::cpu
