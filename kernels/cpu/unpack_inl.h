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

// body.operator()<i>() for the pairs of columns of a group.
template <typename Body>
[[gnu::always_inline]] inline void ForPairs(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body.template operator()<i>(), ...);
  }
  (std::make_integer_sequence<int, kPairs>{});
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
      constexpr int kHigh = kBits - 4, kPerWord = 16 / kHigh;
      const auto high = V::LoadWords(group + kLineBytes * (4 + i / kPerWord));
      codes = V::Or(codes, V::template MoveBits<kHigh*(i % kPerWord), kHigh, 4>(high));
    }
    if constexpr (Format::kOffset != 0) codes = V::SubWords(codes, Format::kOffset);
    return codes;
  }
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
