#pragma once
// Products of packed weights with rows of floats, on the tensor cores (mma.m16n8k16: bfloat16 in,
// float sums). Codes less their offset are exact in bfloat16; an activation is the sum of two
// bfloat16 numbers (16 bits, activations.cu); float16 weights are the sum of two, float32 ones of
// three. A tile of 16 outputs by 8 rows of x is summed over K in one order, whatever the launch:
//
//   K is cut into 8 segments (by the weight's width alone), added at the end in ascending order;
//   in a segment, groups of 32 in ascending order; in a group, two steps of 16, first parts of x
//   before second ones; a quantised group's sum is scaled and added, then its minimum times the sum
//   of x.
//
// What a multiply-add of the tensor cores does inside is not documented (its 16 products are added
// in an order, and with a width, of its own). A row of x has the same bits in any company because
// the same instruction gets the same numbers in the same order, and no column of the instruction's
// result depends on another.

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

inline constexpr int kSegments = 8;
inline constexpr int kSegmentThreads = 32 * kSegments;  // a warp for each

// bfloat16 planes whose sum a weight is.
constexpr int PlanesOf(Packing packing) {
  return packing == Packing::kF32 ? 3 : packing == Packing::kF16 ? 2 : 1;
}

// Blocks of `each` that hold `count`.
constexpr unsigned Blocks(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// body.operator()<packing>(): kernels know it when they are compiled.
template <typename Body>
void WithPacking(Packing packing, Body body) {
  switch (packing) {
    case Packing::k4:
      return body.template operator()<Packing::k4>();
    case Packing::k5:
      return body.template operator()<Packing::k5>();
    case Packing::k6:
      return body.template operator()<Packing::k6>();
    case Packing::k8:
      return body.template operator()<Packing::k8>();
    case Packing::kF16:
      return body.template operator()<Packing::kF16>();
    case Packing::kBF16:
      return body.template operator()<Packing::kBF16>();
    case Packing::kF32:
      return body.template operator()<Packing::kF32>();
  }
}

// From shared memory.
template <typename Value>
__device__ Value ReadAs(const char* p) {
  return *reinterpret_cast<const Value*>(p);
}

// This lane's chunks of a tile, in shared memory: of rows lane / 4 and lane / 4 + 8.
template <Packing kPacking>
__device__ void LoadTile(const char* tile, int lane, Chunk* chunks) {
  if constexpr (WordsOf(kPacking) <= 6) {
    const auto words = ReadAs<Bytes8>(tile + lane * 8);
    chunks[0].word[0] = words.word[0];
    chunks[1].word[0] = words.word[1];
    if constexpr (kPacking == Packing::k5) {
      const uint32_t high = ReadU16(tile + 256 + lane * 2);
      chunks[0].high = high & 0xffu;
      chunks[1].high = high >> 8;
    }
    if constexpr (kPacking == Packing::k6) {
      const auto high = ReadAs<uint32_t>(tile + 256 + lane * 4);
      chunks[0].high = high & 0xffffu;
      chunks[1].high = high >> 16;
    }
  } else {
    constexpr int kLoads = WordsOf(kPacking) / 8;  // of 16 bytes: 8 words of two rows are one
    constexpr int kWords = WordsOf(kPacking) / 4;  // of a row's chunk
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const auto words = ReadAs<Bytes16>(tile + i * 512 + lane * 16);
#pragma unroll
      for (int w = 0; w < 4; ++w)
        chunks[(4 * i + w) / kWords].word[(4 * i + w) % kWords] = words.word[w];
    }
  }
}

// The high halves of two floats, which are all of them where they are exact in bfloat16.
__device__ inline uint32_t HighHalves(float first, float second) {
  return std::bit_cast<uint32_t>(first) >> 16 | (std::bit_cast<uint32_t>(second) & 0xffff0000u);
}

// What is left of a value when its first `plane` bfloat16 parts are taken away, rounded to one.
__device__ inline float PlaneOf(float value, int plane) {
  float part = Bf16Of(value);
  for (int i = 0; i < plane; ++i) {
    value -= part;
    part = Bf16Of(value);
  }
  return part;
}

// Pair i of a chunk as bfloat16: codes less their offset, or plane `plane` of the values.
template <Packing kPacking>
__device__ uint32_t WeightPair(const Chunk& chunk, int i, int offset, uint32_t negative,
                               int plane) {
  if constexpr (kPacking == Packing::kBF16) return chunk.word[i];
  if constexpr (kPacking == Packing::kF32) {
    return HighHalves(PlaneOf(std::bit_cast<float>(chunk.word[2 * i]), plane),
                      PlaneOf(std::bit_cast<float>(chunk.word[2 * i + 1]), plane));
  }
  if constexpr (kPacking == Packing::kF16) {
    return HighHalves(PlaneOf(HalfBitsToFloat(static_cast<uint16_t>(chunk.word[i])), plane),
                      PlaneOf(HalfBitsToFloat(static_cast<uint16_t>(chunk.word[i] >> 16)), plane));
  }
  if constexpr (IsQuantised(kPacking)) {
    const uint32_t codes = CodePair<kPacking>(chunk, i);
    if constexpr (kPacking == Packing::k8) {
      const float shift = 8388608.0f + static_cast<float>(offset);
      return HighHalves(CodeToFloat(codes & 0xffffu, shift), CodeToFloat(codes >> 16, shift));
    }
    // 0x4300 + code is 128 + code in bfloat16, up to 127.
    return AddBf16Pairs(codes | 0x43004300u, negative);
  }
}

// Two steps of rows of x: what a lane gives to mma as B. Lanes of rows that are not there give
// zeros.
struct XChunk {
  Bytes16 part[2];
};

// A warp's sums: kM tiles of 16 weight rows by kN tiles of 8 rows of x. Of a tile the lane has rows
// lane / 4 (values 0, 1) and lane / 4 + 8 (2, 3), columns lane % 4 * 2 and + 1.
template <int kM, int kN>
struct Sums {
  float of[kM][kN][4];
};

// sums += a group's products, or half a group's, times its scales; they begin anew.
template <int kN>
__device__ void AddScaled(const GroupScale (&scale)[2], int step, float (&of_group)[kN][4],
                          float (&sums)[kN][4]) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[n][i] = fmaf(of_group[n][i], scale[i / 2].scale[step], sums[n][i]);
      of_group[n][i] = 0.0f;
    }
  }
}

// sums += a group's minima times the sums of x's.
template <int kN, typename Tiles>
__device__ void AddMinima(const Tiles& tiles, const GroupScale (&scale)[2], int lane,
                          float (&sums)[kN][4]) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[n][i] = fmaf(scale[i / 2].min, tiles.Total(n, lane % 4 * 2 + i % 2), sums[n][i]);
    }
  }
}

// Tiles say where a warp's tiles of a group lie: of kM tiles of weight rows their codes and scales,
// of kN of x their chunks and totals.
template <Packing kPacking, int kM, int kN, typename Tiles>
__device__ void AddGroup(const Tiles& tiles, int lane, Sums<kM, kN>& sums) {
  constexpr bool kScaled = IsQuantised(kPacking);
  const PartView& part = tiles.part;
  const uint32_t negative = Bf16Pair(-128.0f - static_cast<float>(part.offset));
  XChunk chunk[kN];
#pragma unroll
  for (int n = 0; n < kN; ++n) chunk[n] = tiles.X(n, lane);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    Chunk chunks[2] = {};
    LoadTile<kPacking>(tiles.Codes(m), lane, chunks);
    GroupScale scale[2] = {};
    if constexpr (kScaled) {
      scale[0] = tiles.Scale(m, lane / 4);
      scale[1] = tiles.Scale(m, lane / 4 + 8);
    }
    float of_group[kN][4] = {};
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int plane = 0; plane < PlanesOf(kPacking); ++plane) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] =
              WeightPair<kPacking>(chunks[i % 2], 2 * step + i / 2, part.offset, negative, plane);
        }
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          float(&to)[4] = kScaled ? of_group[n] : sums.of[m][n];
          MmaBf16(to, a, chunk[n].part[0].word[2 * step], chunk[n].part[0].word[2 * step + 1]);
          MmaBf16(to, a, chunk[n].part[1].word[2 * step], chunk[n].part[1].word[2 * step + 1]);
        }
      }
      if constexpr (kScaled) {
        // Two scales a group: each step has its own.
        if (step == 1 || part.split_scales) AddScaled(scale, step, of_group, sums.of[m]);
      }
    }
    if constexpr (kScaled) {
      if (part.has_min) AddMinima(tiles, scale, lane, sums.of[m]);
    }
  }
}

// Groups of a segment; the last ones have fewer, or none.
ECHELON_HD inline int64_t SegmentGroups(const PartView& part) {
  return (part.groups + kSegments - 1) / kSegments;
}

struct MatMulParams {
  PartView part;
  SplitRows x;
  const float* bias;
  Rows out;
};

// Where many rows of x give the device blocks enough; false: nothing was launched.
bool LaunchManyRows(Stream stream, int multiprocessors, const MatMulParams& params);

// First rows of the warp's tiles; beyond the weight, the last tile again, whose results are not
// stored.
template <int kM>
__device__ void TileRows(const PartView& part, int64_t first_tile, int64_t (&rows)[kM]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const int64_t tile = first_tile + m;
    rows[m] = (tile < part.Tiles() ? tile : part.Tiles() - 1) * kTileRows;
  }
}

__device__ inline void StoreOut(const MatMulParams& p, int64_t row, int64_t token, float sum) {
  if (row >= p.part.rows || token >= p.x.rows) return;
  p.out.data[token * p.out.stride + row] = p.bias != nullptr ? sum + p.bias[row] : sum;
}

// A warp's sums, in shared memory, for AddUpSegments.
template <int kM, int kN>
__device__ void StoreSegment(int segment, int lane, const Sums<kM, kN>& sums, float* shared) {
  constexpr int kValues = kM * kN * 4;
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    shared[(segment * kValues + v) * 32 + lane] = sums.of[v / 4 / kN][v / 4 % kN][v % 4];
  }
}

// The sum of a lane's value over the segments; `at` is value * 32 + lane, of values * 32.
__device__ inline float AddUpSegments(const float* shared, int values, int at) {
  float sum = 0.0f;
  for (int s = 0; s < kSegments; ++s) sum += shared[s * values * 32 + at];
  return sum;
}

}  // namespace echelon::cuda
