#pragma once
// How a packed matrix lies in device memory, and the one way to read it: index arithmetic and
// unpacking as functions of plain values, used by the kernels and, on the host, by the packer and
// the tests.
//
// Rows come in tiles of 16, columns in groups of 32: a tile of a group is what a warp of the tensor
// cores takes at once (mma.m16n8k16, twice), and lies as its lanes want it: lane 4 g + t has
// elements 4t..4t+3 and 16+4t..16+4t+3 (a chunk) of rows g and g + 8, so that each load of a warp
// is one run of memory and nothing is shuffled afterwards. Tiles of a row of tiles follow each
// other. Scales lie in a plane of their own, 16 entries a tile; K-quants keep their small integers
// there and the float16 numbers of their blocks of 8 groups in a third plane, so nothing grows by
// unpacking.
//
//   a chunk's 8 codes, as pairs i = (2i, 2i + 1):
//     4 bits: nibbles i and i + 4 of a word
//     5 bits: the same, bit 4 at bits i and i + 4 of a byte behind the tile's words
//     6 bits: the same, bits 4, 5 at bits 2i and 8 + 2i of 16 bits behind the tile's words
//     8 bits: bytes 2i and 2i + 1 of 8;  float16, bfloat16: halves;  float32: words

#include <math.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "common/half.h"
#include "kernels/host_device.h"

namespace echelon::cuda {

inline constexpr int kGroup = 32;       // elements of a group
inline constexpr int kTileRows = 16;    // rows of a tile
inline constexpr int kChunk = 8;        // elements of a lane in a group
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

  ECHELON_HD int64_t Tiles() const { return (rows + kTileRows - 1) / kTileRows; }  // of rows
  ECHELON_HD int64_t TileBytes() const { return int64_t{kTileRows} * WordsOf(packing) * 4; }
  // Bytes of a group's entry in the plane of scales: one or two float16 numbers or small integers.
  ECHELON_HD int64_t ScaleBytes() const { return super_scales || !has_min ? 2 : 4; }
  ECHELON_HD int64_t SuperBlocks() const { return (groups + kSuperGroups - 1) / kSuperGroups; }
  // Bytes of the planes, and where things lie in them.
  ECHELON_HD int64_t CodeBytes() const { return Tiles() * groups * TileBytes(); }
  ECHELON_HD int64_t ScalePlaneBytes() const {
    return IsQuantised(packing) ? Tiles() * groups * kTileRows * ScaleBytes() : 0;
  }
  ECHELON_HD int64_t SuperPlaneBytes() const {
    return super_scales ? Tiles() * SuperBlocks() * kTileRows * 4 : 0;
  }
  ECHELON_HD const char* Tile(int64_t row, int64_t group) const {
    return codes + (row / kTileRows * groups + group) * TileBytes();
  }
  ECHELON_HD const char* ScaleOf(int64_t row, int64_t group) const {
    return scales +
           ((row / kTileRows * groups + group) * kTileRows + row % kTileRows) * ScaleBytes();
  }
  ECHELON_HD const char* SuperOf(int64_t row, int64_t group) const {
    return supers + ((row / kTileRows * SuperBlocks() + group / kSuperGroups) * kTileRows +
                     row % kTileRows) *
                        4;
  }
};

// Where element `e` of a group is: chunk t, place j of it; and back.
ECHELON_HD inline int ChunkOf(int e) { return e % 16 / 4; }
ECHELON_HD inline int PlaceOf(int e) { return e / 16 * 4 + e % 4; }
ECHELON_HD inline int ElementAt(int chunk, int place) {
  return place / 4 * 16 + 4 * chunk + place % 4;
}

// The words of chunk t of row r (of 16) begin at this byte of the tile; float32's second four lie
// 512 bytes behind the first.
ECHELON_HD inline int64_t ChunkOffset(Packing packing, int r, int t) {
  const int lane = r % 8 * 4 + t, half = r / 8;
  switch (packing) {
    case Packing::k4:
    case Packing::k5:
    case Packing::k6:
      return lane * 8 + half * 4;
    case Packing::k8:
      return lane * 16 + half * 8;
    case Packing::kF16:
    case Packing::kBF16:
      return half * 512 + lane * 16;
    case Packing::kF32:
      return half * 1024 + lane * 16;
  }
  return 0;
}
// The byte (5 bits) or two (6 bits) of the chunk's high bits.
ECHELON_HD inline int64_t HighOffset(Packing packing, int r, int t) {
  const int lane = r % 8 * 4 + t, half = r / 8, bytes = packing == Packing::k5 ? 1 : 2;
  return 256 + (lane * 2 + half) * bytes;
}

// A lane's 8 elements of a row.
struct Chunk {
  uint32_t word[8];
  uint32_t high;
};

// float(code) - offset without a conversion instruction: 2^23 + code is code in the last bits.
ECHELON_HD inline float CodeToFloat(uint32_t code, float offset_and_2_23) {
  return std::bit_cast<float>(0x4b000000u | code) - offset_and_2_23;
}

// Codes of pair i: the first in the low 16 bits. i is known when it is compiled, in unrolled loops.
template <Packing kPacking>
ECHELON_HD uint32_t CodePair(const Chunk& chunk, int i) {
  if constexpr (kPacking == Packing::k8) {
    const uint32_t both = chunk.word[i / 2] >> (i % 2 * 16);
    return (both & 0xffu) | (both & 0xff00u) << 8;
  }
  uint32_t pair = (chunk.word[0] >> (4 * i)) & 0x000f000fu;
  if constexpr (kPacking == Packing::k5) {
    const uint32_t bits = (chunk.high & 0xfu) | (chunk.high & 0xf0u) << 12;
    pair |= ((bits >> i) & 0x00010001u) << 4;
  }
  if constexpr (kPacking == Packing::k6) {
    const uint32_t bits = (chunk.high & 0xffu) | (chunk.high & 0xff00u) << 8;
    pair |= ((bits >> (2 * i)) & 0x00030003u) << 4;
  }
  return pair;
}

struct GroupScale {
  float scale[2];  // of elements 0..15 and 16..31
  float min;
};

ECHELON_HD inline uint16_t ReadU16(const char* p) { return *reinterpret_cast<const uint16_t*>(p); }

ECHELON_HD inline uint32_t ReadU32(const char* p) { return *reinterpret_cast<const uint32_t*>(p); }

// Of a row's group whose entries in the planes of scales and supers, or copies of them, lie at
// `entry` and `super`; half(bits): a float16 number. The products are exact in float: 11 bits times
// 6 (or 8).
template <typename Half>
ECHELON_HD GroupScale ScaleOf(const PartView& part, const char* entry, const char* super,
                              Half half) {
  const auto first_half = [&](uint32_t both) { return half(static_cast<uint16_t>(both)); };
  const auto second_half = [&](uint32_t both) { return half(static_cast<uint16_t>(both >> 16)); };
  if (!part.super_scales) {
    const uint32_t both = part.has_min ? ReadU32(entry) : ReadU16(entry);
    const float scale = first_half(both);
    return {{scale, scale}, part.has_min ? second_half(both) : 0.0f};
  }
  const uint32_t both = ReadU32(super), codes = ReadU16(entry);
  const float scale = first_half(both);
  const auto first = static_cast<float>(static_cast<int8_t>(codes));
  const auto second = static_cast<float>(static_cast<int8_t>(codes >> 8));
  if (part.split_scales) return {{scale * first, scale * second}, 0.0f};
  return {{scale * first, scale * first}, second_half(both) * second};
}

// Reads a chunk word by word; kernels load whole tiles.
ECHELON_HD inline Chunk ChunkAt(const PartView& part, int64_t row, int64_t group, int t) {
  Chunk chunk = {};
  const char* tile = part.Tile(row, group);
  const int r = static_cast<int>(row % kTileRows), words = WordsOf(part.packing) / 4;
  const char* at = tile + ChunkOffset(part.packing, r, t);
  for (int w = 0; w < words; ++w) chunk.word[w] = ReadU32(at + (w < 4 ? 4 * w : 512 + 4 * (w - 4)));
  const char* high = tile + HighOffset(part.packing, r, t);
  if (part.packing == Packing::k5) chunk.high = static_cast<uint8_t>(*high);
  if (part.packing == Packing::k6) chunk.high = ReadU16(high);
  return chunk;
}

// One value: row `row`, used column `col`; for embeddings and tests. scale * (code - offset) is
// exact (11 + 8 bits), so one rounding, as DequantizeRow has it.
ECHELON_HD inline float ValueAt(const PartView& part, int64_t row, int64_t col) {
  const int64_t at = col + part.lead, group = at / kGroup;
  const int e = static_cast<int>(at % kGroup), j = PlaceOf(e);
  const Chunk chunk = ChunkAt(part, row, group, ChunkOf(e));
  const uint32_t half = (chunk.word[j / 2] >> (j % 2 * 16)) & 0xffffu;  // of 16-bit elements
  uint32_t pair = 0;
  switch (part.packing) {
    case Packing::kF32:
      return std::bit_cast<float>(chunk.word[j]);
    case Packing::kBF16:
      return std::bit_cast<float>(half << 16);
    case Packing::kF16:
      return HalfToFloat(static_cast<uint16_t>(half));
    case Packing::k4:
      pair = CodePair<Packing::k4>(chunk, j / 2);
      break;
    case Packing::k5:
      pair = CodePair<Packing::k5>(chunk, j / 2);
      break;
    case Packing::k6:
      pair = CodePair<Packing::k6>(chunk, j / 2);
      break;
    case Packing::k8:
      pair = CodePair<Packing::k8>(chunk, j / 2);
      break;
  }
  const char* super = part.super_scales ? part.SuperOf(row, group) : nullptr;
  const GroupScale scale = ScaleOf(part, part.ScaleOf(row, group), super, HalfToFloat);
  const uint32_t code = (pair >> (j % 2 * 16)) & 0xffffu;
  return fmaf(scale.scale[e / 16], CodeToFloat(code, 8388608.0f + static_cast<float>(part.offset)),
              scale.min);
}

}  // namespace echelon::cuda
