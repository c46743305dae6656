#pragma once
// How a packed matrix lies in device memory, and the one way to read it: index arithmetic and
// unpacking as functions of plain values, used by the kernels and, on the host, by the packer and
// the tests.
//
// A row is groups of 32 stored elements. Tiles of 32 groups are interleaved by lane: 16-byte chunk
// c of group g of a tile of L groups lies at (c * L + g) * 16, so that a warp that reads one chunk
// a lane reads one run of memory. What is left of a group after its chunks (4 bytes of 5-bit codes,
// 8 of 6-bit ones) lies behind the tile's chunks in the same way. Rows begin at multiples of 16
// bytes. Scales lie in a plane of their own, an entry a group; K-quants keep their small integers
// there and the float16 numbers of their blocks of 8 groups in a third plane, so nothing grows by
// unpacking.
//
//   codes of group g:  4 bits: element e is nibble e % 8 of word e / 8
//                      5 bits: the same, word 4 holds bit 4 of element e at bit e
//                      6 bits: the same, words 4, 5 hold bits 4, 5 of element e at 2 (e % 16)
//                      8 bits: byte e % 4 of word e / 4
//                      float16, bfloat16: half e % 2 of word e / 2;  float32: word e

#include <math.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "common/half.h"
#include "kernels/host_device.h"

namespace echelon::cuda {

inline constexpr int kGroup = 32;       // elements of a group
inline constexpr int kTileGroups = 32;  // groups of a tile: the lanes of a warp
inline constexpr int kSuperGroups = 8;  // groups of a K-quant's block

enum class Packing : uint8_t { k4, k5, k6, k8, kF16, kBF16, kF32 };

// 4-byte words of a group's codes.
constexpr int WordsOf(Packing packing) {
  switch (packing) {
    case Packing::k4:
      return 4;
    case Packing::k5:
      return 5;
    case Packing::k6:
      return 6;
    case Packing::k8:
      return 8;
    case Packing::kF16:
    case Packing::kBF16:
      return 16;
    case Packing::kF32:
      return 32;
  }
  return 0;
}
constexpr bool IsQuantised(Packing packing) { return packing < Packing::kF16; }

// Rows of one format; pointers in the memory of whoever reads.
struct PartView {
  const char* codes = nullptr;
  const char* scales = nullptr;  // quantised formats
  const char* supers = nullptr;  // K-quants
  int64_t rows = 0;
  int64_t cols = 0;    // used
  int64_t groups = 0;  // stored in a row
  int32_t lead = 0;    // stored elements before the first used one
  int32_t offset = 0;  // value = scale * (code - offset) + min
  Packing packing = Packing::kF32;
  bool has_min = false;
  bool super_scales = false;
  bool split_scales = false;

  ECHELON_HD int64_t RowBytes() const { return (groups * WordsOf(packing) * 4 + 15) / 16 * 16; }
  // Bytes of a group's entry in the plane of scales: one or two float16 numbers or small integers.
  ECHELON_HD int64_t ScaleBytes() const { return super_scales || !has_min ? 2 : 4; }
  ECHELON_HD int64_t SuperBlocks() const { return (groups + kSuperGroups - 1) / kSuperGroups; }
  ECHELON_HD const char* Row(int64_t row) const { return codes + row * RowBytes(); }
  ECHELON_HD const char* ScaleOf(int64_t row, int64_t group) const {
    return scales + (row * groups + group) * ScaleBytes();
  }
  ECHELON_HD const char* SuperOf(int64_t row, int64_t group) const {
    return supers + (row * SuperBlocks() + group / kSuperGroups) * 4;
  }
};

// Where word `word` of a group lies in its row.
ECHELON_HD inline int64_t WordOffset(Packing packing, int64_t groups, int64_t group, int word) {
  const int64_t tile = group / kTileGroups, lane = group % kTileGroups;
  const int64_t left = groups - tile * kTileGroups;
  const int64_t lanes = left < kTileGroups ? left : kTileGroups;
  const int words = WordsOf(packing), chunk_words = words / 4 * 4;
  const int64_t base = tile * kTileGroups * words * 4;
  if (word < chunk_words) return base + (word / 4 * lanes + lane) * 16 + word % 4 * 4;
  const int rest = words - chunk_words;
  return base + lanes * chunk_words * 4 + (lane * rest + (word - chunk_words)) * 4;
}

// float(code) - offset without a conversion instruction: 2^23 + code is code in the last bits.
ECHELON_HD inline float CodeToFloat(uint32_t code, float offset_and_2_23) {
  return std::bit_cast<float>(0x4b000000u | code) - offset_and_2_23;
}

// Code of element e; e is known when it is compiled, in unrolled loops.
template <Packing kPacking>
ECHELON_HD uint32_t CodeOf(const uint32_t* words, int e) {
  if constexpr (kPacking == Packing::k8) {
    return (words[e / 4] >> (e % 4 * 8)) & 0xffu;
  } else {
    const uint32_t low = (words[e / 8] >> (e % 8 * 4)) & 0xfu;
    if constexpr (kPacking == Packing::k5) return low | ((words[4] >> e) & 1u) << 4;
    if constexpr (kPacking == Packing::k6) {
      return low | ((words[4 + e / 16] >> (e % 16 * 2)) & 3u) << 4;
    }
    return low;
  }
}

struct GroupScale {
  float scale[2];  // of elements 0..15 and 16..31
  float min;
};

ECHELON_HD inline uint16_t ReadU16(const char* p) { return *reinterpret_cast<const uint16_t*>(p); }

// The products are exact in float: 11 bits times 6 (or 8).
ECHELON_HD inline GroupScale ScaleAt(const PartView& part, int64_t row, int64_t group) {
  const char* entry = part.ScaleOf(row, group);
  if (!part.super_scales) {
    const float scale = HalfToFloat(ReadU16(entry));
    return {{scale, scale}, part.has_min ? HalfToFloat(ReadU16(entry + 2)) : 0.0f};
  }
  const char* super = part.SuperOf(row, group);
  const float scale = HalfToFloat(ReadU16(super));
  const auto first = static_cast<float>(static_cast<int8_t>(entry[0]));
  const auto second = static_cast<float>(static_cast<int8_t>(entry[1]));
  if (part.split_scales) return {{scale * first, scale * second}, 0.0f};
  return {{scale * first, scale * first}, HalfToFloat(ReadU16(super + 2)) * second};
}

// Element e of a group whose words are at hand. scale * (code - offset) is exact (11 + 8 bits), so
// one rounding, as DequantizeRow has it.
template <Packing kPacking>
ECHELON_HD float ElementOf(const uint32_t* words, const GroupScale& scale, float offset_and_2_23,
                           int e) {
  if constexpr (kPacking == Packing::kF32) return std::bit_cast<float>(words[e]);
  if constexpr (kPacking == Packing::kBF16) {
    return std::bit_cast<float>(e % 2 == 0 ? words[e / 2] << 16 : words[e / 2] & 0xffff0000u);
  }
  if constexpr (kPacking == Packing::kF16) {
    return HalfToFloat(static_cast<uint16_t>(words[e / 2] >> (e % 2 * 16)));
  }
  if constexpr (IsQuantised(kPacking)) {
    const float code = CodeToFloat(CodeOf<kPacking>(words, e), offset_and_2_23);
    return fmaf(scale.scale[e / 16], code, scale.min);
  }
}

// One value: row `row`, used column `col`. For embeddings and tests; kernels that read whole rows
// read whole groups.
ECHELON_HD inline float ValueAt(const PartView& part, int64_t row, int64_t col) {
  const int64_t at = col + part.lead, group = at / kGroup;
  const int e = static_cast<int>(at % kGroup);
  uint32_t words[32] = {};
  for (int w = 0; w < WordsOf(part.packing); ++w) {
    words[w] = *reinterpret_cast<const uint32_t*>(part.Row(row) +
                                                  WordOffset(part.packing, part.groups, group, w));
  }
  const float shift = 8388608.0f + static_cast<float>(part.offset);
  const GroupScale scale =
      IsQuantised(part.packing) ? ScaleAt(part, row, group) : GroupScale{{1.0f, 1.0f}, 0.0f};
  switch (part.packing) {
    case Packing::k4:
      return ElementOf<Packing::k4>(words, scale, shift, e);
    case Packing::k5:
      return ElementOf<Packing::k5>(words, scale, shift, e);
    case Packing::k6:
      return ElementOf<Packing::k6>(words, scale, shift, e);
    case Packing::k8:
      return ElementOf<Packing::k8>(words, scale, shift, e);
    case Packing::kF16:
      return ElementOf<Packing::kF16>(words, scale, shift, e);
    case Packing::kBF16:
      return ElementOf<Packing::kBF16>(words, scale, shift, e);
    case Packing::kF32:
      return ElementOf<Packing::kF32>(words, scale, shift, e);
  }
  return 0.0f;
}

}  // namespace echelon::cuda
