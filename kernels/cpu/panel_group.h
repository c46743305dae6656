#pragma once
// Where the numbers of one group lie in a panel: 32 columns of 16 rows of a quantised weight.
//
// Codes come first. A 16-bit word belongs to a row and the parity of a column: word j of a 64-byte
// line is row j / 2, column parity j % 2, so that a 32-bit lane holds two neighbouring columns of
// one row, which a 16-bit dot instruction takes. Pair i of a group is its columns 2i and 2i + 1.
//   4, 5 and 6 bits: four lines; bits 4n..4n+3 of a word of line q are the low bits of pair 4q + n.
//   5 bits: one more line, 6 bits: two, of `high` bits. Of a word its lower byte belongs to the
//   pairs 4q and 4q + 1, its upper byte to 4q + 2 and 4q + 3: a byte's bits [high * j, high * (j +
//   1)) are those of the j-th pair of its sort, in the second line where there are more than a
//   byte's. (Nibbles 0 and 2 of a word, and 1 and 3, then become bytes together with their high
//   bits: what an 8-bit dot instruction takes.) 8 bits: signed bytes (the offset taken off
//   already), 32 of them for each pair.
// Then the 16 rows' scales (split: those of columns 0..15, then those of columns 16..31), then the
// 16 minima where there are any: float16, or bytes that a super scale multiplies. Super scales, 16
// float16 scales and then 16 minima for the block of 256 columns, lie behind a panel's groups.

#include <cstddef>
#include <cstdint>

#include "kernels/quant/quant.h"

namespace echelon::cpu {

inline constexpr int kPanelRows = 16;
inline constexpr int kGroup = kCodeGroup;  // columns of a group
inline constexpr int kPairs = kGroup / 2;  // of columns
inline constexpr int kLineBytes = 64;      // a word for each of 16 rows * 2 columns
inline constexpr int kSuperGroups = 8;     // groups that share a super scale

struct GroupLayout {
  int code_bits = 4;
  bool has_min = false;
  bool split_scales = false;
  bool super_scales = false;

  constexpr int CodeBytes() const { return kGroup * kPanelRows * code_bits / 8; }
  constexpr int ScaleBytes() const { return super_scales ? 1 : 2; }  // of one scale or minimum
  constexpr int Bytes() const {
    const int numbers = (split_scales ? 2 : 1) + (has_min ? 1 : 0);
    return CodeBytes() + numbers * kPanelRows * ScaleBytes();
  }
  constexpr int SuperBytes() const {  // for eight groups
    return super_scales ? kPanelRows * 2 * (has_min ? 2 : 1) : 0;
  }
};

GroupLayout LayoutOf(const QuantFormat& quant);

// Writes one row's group; `super` is where the super scales of its block lie. Both were zero.
void StoreGroup(const QuantFormat& quant, const CodeGroup& from, int row, std::byte* group,
                std::byte* super);

// The value of column k (of the group) of one row.
float LoadValue(const QuantFormat& quant, const std::byte* group, const std::byte* super, int row,
                int k);

}  // namespace echelon::cpu
