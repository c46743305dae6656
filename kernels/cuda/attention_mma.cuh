#pragma once
// Attention on the tensor cores. A tile is 16 rows, a query head of a token each, of one sequence
// and KV head: in decode the query heads that share the KV head, in prefill those of several
// tokens. Places are taken by blocks of 32 (absolute, eight to a split):
//
//   scores (16, 32) = queries . keys^T              mma by mma over dimensions, ascending
//   best, weights = exp(scores - best), total       of the block alone
//   sums (16, D) = weights . values                 from zero
//   a split: its blocks merged in ascending order   state * keep + block * take, as merge.cu has it
//   a row: its splits merged in ascending order     the same
//
// So a row's bits depend on its own query and places alone: it is the same instructions with the
// same numbers in the same order whether eight warps take a block each (splits: decode) or one warp
// all of them one by one (whole units: prefill), whatever the other rows of the tile are. That a
// row of mma's result depends on no other row is what this rests on (tests/cuda/attention_test.cc).
//
// Numbers: float16 keys and values are taken as they are, queries and weights as sums of two
// float16 numbers (22 bits; a query first scaled by a power of two, so that the second part has its
// bits). Codes (kQ8_0) are exact in bfloat16, queries and weights then sums of two of these (16
// bits); a key's scales are applied to the products of 32 dimensions, a value's to the weights.
//
// Nothing is shuffled: lane 4 g + t takes 8 dimensions (chunk 4 s + t) of key g as its 2 x 4
// numbers of two mma steps, and queries lie in the same order; its keys of the four score tiles are
// places 8 (g / 2) + 2 j + g % 2, which makes its own weights those of places 8 t .. 8 t + 7: the
// run that lies together in a value.

#include <math.h>

#include <type_traits>

#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/math.cuh"

namespace echelon::cuda {

inline constexpr int kStepDims = 32;                // of a step: four chunks
inline constexpr int kStepBytes = 2 * 2 * 32 * 16;  // queries of a step: parts, halves, lanes
inline constexpr int kDimTiles = kStepDims / 8;     // tiles of 8 dimensions in a step

// One of the lane's two rows of the tile.
struct TileRow {
  int64_t row = -1;  // of q; -1: none
  int head = 0;
  AttentionRow seen = {};
  float scale = 0.0f;  // of the products
};

__device__ inline TileRow RowAt(const AttentionParams& p, const AttentionUnit& unit, int r) {
  const int members = p.group < kAttentionTile ? p.group : kAttentionTile;
  const int member = static_cast<int>(blockIdx.z) * kAttentionTile + r % members;
  TileRow at;
  at.head = (static_cast<int>(blockIdx.y) + p.kv_begin) * p.group - p.head_begin + member;
  if (r / members >= unit.count || member >= p.group || at.head < 0 || at.head >= p.heads) {
    return at;
  }
  at.row = unit.row + r / members;
  at.seen = p.rows[at.row];
  return at;
}

// Two pairs of numbers whose sums two floats are, as the kind of cache wants them.
struct PairParts {
  uint32_t high, low;
};
template <KvType kType>
__device__ PairParts PartsOf(float first, float second) {
  if constexpr (kType == KvType::kF16) {
    const uint32_t high = HalfPairOf(first, second);
    return {high, HalfPairOf(first - HalfBitsToFloat(static_cast<uint16_t>(high)),
                             second - HalfBitsToFloat(static_cast<uint16_t>(high >> 16)))};
  } else {
    const uint32_t high = Bf16PairOf(first, second);
    return {high, Bf16PairOf(first - std::bit_cast<float>(high << 16),
                             second - std::bit_cast<float>(high & 0xffff0000u))};
  }
}

template <KvType kType>
__device__ void Mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kType == KvType::kF16) {
    MmaF16(sums, a, b0, b1);
  } else {
    MmaBf16(sums, a, b0, b1);
  }
}

// Eight neighbouring elements as they lie; as four pairs, where codes become bfloat16.
template <KvType kType>
using Eight = std::conditional_t<kType == KvType::kF16, Bytes16, Bytes8>;
template <KvType kType>
__device__ Bytes16 PairsOf(const Eight<kType>& eight) {
  if constexpr (kType == KvType::kF16) {
    return eight;
  } else {
    Bytes16 pairs;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // 2^23 + 128 + code, less the first two, is a small integer: its high half is all of it.
      const uint32_t both = (eight.word[i / 2] >> (i % 2 * 16)) ^ 0x8080u;
      const float first = std::bit_cast<float>(0x4b000000u | (both & 0xffu)) - 8388736.0f;
      const float second = std::bit_cast<float>(0x4b000000u | (both >> 8 & 0xffu)) - 8388736.0f;
      pairs.word[i] =
          std::bit_cast<uint32_t>(first) >> 16 | (std::bit_cast<uint32_t>(second) & 0xffff0000u);
    }
    return pairs;
  }
}
template <KvType kType>
__device__ Bytes16 LoadEight(const char* head, int64_t index) {
  if constexpr (kType == KvType::kF16) {
    return Load16(head + index * 2);
  } else {
    return PairsOf<kType>(Load8(head + index));
  }
}

// The lane's rows in shared memory, in the order of mma's first operand: (steps, parts, rows,
// lanes) of 16 bytes; this warp writes steps first, first + by, ... Sets the rows' scales.
template <KvType kType>
__device__ void PutQueries(const AttentionParams& p, TileRow (&rows)[2], int first, int by,
                           char* queries) {
  const int lane = static_cast<int>(threadIdx.x % 32), dim = p.head_dim;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool there = rows[half].row >= 0;
    const float* q =
        there ? p.q.data + rows[half].row * p.q.stride + int64_t{rows[half].head} * dim : nullptr;
    float most = 0.0f;
    for (int d = lane % 4 * 8; there && d < dim; d += kStepDims) {
      for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(q[d + i]));
    }
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
    // 2^e <= most < 2^(e + 1), by the bits; times 2^-e the row lies in (-2, 2).
    const uint32_t exponent = std::bit_cast<uint32_t>(most) >> 23;
    const uint32_t field = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    const float down = std::bit_cast<float>((254 - field) << 23);
    rows[half].scale = p.scale * std::bit_cast<float>(field << 23);
    for (int step = first; step * kStepDims < dim; step += by) {
      const int d = step * kStepDims + lane % 4 * 8;
      Bytes16 high = {}, low = {};
      for (int i = 0; there && d < dim && i < 4; ++i) {
        const PairParts parts = PartsOf<kType>(q[d + 2 * i] * down, q[d + 2 * i + 1] * down);
        high.word[i] = parts.high;
        low.word[i] = parts.low;
      }
      char* to = queries + step * kStepBytes + half * 512 + lane * 16;
      *reinterpret_cast<Bytes16*>(to) = high;
      *reinterpret_cast<Bytes16*>(to + kStepBytes / 2) = low;
    }
  }
}

// A sequence's pages, and the places of them that any row of the tile sees.
struct TilePlaces {
  const int32_t* pages;
  int begin, end;

  // The KV head's part of the page of 8 neighbouring places; null where none is seen.
  __device__ const char* Page(const CacheView& cache, int place) const {
    if (place >= end || place + kCacheChunk <= begin) return nullptr;
    const int32_t page = pages[place / cache.page_tokens];
    return page < 0 ? nullptr : cache.Head(page, static_cast<int>(blockIdx.y));
  }
};

// Weights of a block of places: of place 8 t + 2 j + e, row g or g + 8 at [j][row * 2 + e].
struct BlockWeights {
  float of[4][4];
  float best[2], total[2];  // of the rows; best -infinity: the row sees none of the block
};

// A lane's keys of a block of places, and where they are codes the scales of its scores; null where
// no row sees any.
struct BlockKeys {
  const char* page;
  int slot;  // of the first; the others are at slots + 2, + 4, + 6
  const char* scale_page;
  int scale_slot;
};
template <KvType kType>
__device__ BlockKeys KeysOf(const CacheView& cache, const TilePlaces& places, int base) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4;
  const int run = base + 8 * (g / 2), own = base + 8 * (lane % 4);
  return {places.Page(cache, run), run % cache.page_tokens + g % 2,
          kType == KvType::kQ8_0 ? places.Page(cache, own) : nullptr, own % cache.page_tokens};
}

// Keys of a block's first steps may be on their way to shared memory long before they are wanted:
// of a step the lanes' keys of the four score tiles, then the scales. A lane reads what it copied.
template <KvType kType>
inline constexpr int kAheadBytes = 32 * (4 * static_cast<int>(sizeof(Eight<kType>)) +
                                         (kType == KvType::kQ8_0 ? 16 : 0));
template <KvType kType>
__device__ char* AheadKey(char* ahead, int step, int j) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return ahead + step * kAheadBytes<kType> + (j * 32 + lane) * int{sizeof(Eight<kType>)};
}
template <KvType kType>
__device__ char* AheadScales(char* ahead, int step) {
  return AheadKey<kType>(ahead, step, 4) +
         threadIdx.x % 32 * (sizeof(Bytes16) - sizeof(Eight<kType>));
}

template <KvType kType, int kAhead>
__device__ void BeginKeys(const CacheView& cache, const BlockKeys& keys, char* ahead) {
#pragma unroll
  for (int step = 0; step < kAhead; ++step) {
    const int d = step * kStepDims + static_cast<int>(threadIdx.x % 4) * 8;
    if (keys.page != nullptr && d < cache.head_dim) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t index = cache.KeyIndex(keys.slot + 2 * j, d);
        char* const to = AheadKey<kType>(ahead, step, j);
        if constexpr (kType == KvType::kF16) {
          CopyAsync16(to, keys.page + index * 2);
        } else {
          CopyAsync8(to, keys.page + index);
        }
      }
    }
    if (keys.scale_page != nullptr && step * kStepDims < cache.head_dim) {
      CopyAsync16(AheadScales<kType>(ahead, step),
                  keys.scale_page + cache.ScaleOffset(false, keys.scale_slot, step));
    }
  }
}

// The scores, not yet scaled; the first kAhead steps' keys have come to `ahead`.
template <KvType kType, int kSteps, int kAhead>
__device__ void Score(const CacheView& cache, const BlockKeys& keys, const char* queries,
                      char* ahead, BlockWeights& scores) {
  const int lane = static_cast<int>(threadIdx.x % 32), t = lane % 4;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step * kStepDims >= cache.head_dim) break;
    const char* from = queries + step * kStepBytes + lane * 16;
    Bytes16 q[2][2];  // parts, rows
#pragma unroll
    for (int i = 0; i < 4; ++i) q[i / 2][i % 2] = *reinterpret_cast<const Bytes16*>(from + i * 512);
    const int d = step * kStepDims + t * 8;
    Bytes16 scales = {};
    if (keys.scale_page != nullptr) {
      scales = step < kAhead
                   ? *reinterpret_cast<const Bytes16*>(AheadScales<kType>(ahead, step))
                   : Load16(keys.scale_page + cache.ScaleOffset(false, keys.scale_slot, step));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Bytes16 key = {};
      if (keys.page != nullptr && d < cache.head_dim) {
        key = step < kAhead ? PairsOf<kType>(*reinterpret_cast<const Eight<kType>*>(
                                  AheadKey<kType>(ahead, step, j)))
                            : LoadEight<kType>(keys.page, cache.KeyIndex(keys.slot + 2 * j, d));
      }
      float of_step[4] = {};
      float(&to)[4] = kType == KvType::kQ8_0 ? of_step : scores.of[j];
#pragma unroll
      for (int u = 0; u < 2; ++u) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const uint32_t a[4] = {q[part][0].word[2 * u], q[part][1].word[2 * u],
                                 q[part][0].word[2 * u + 1], q[part][1].word[2 * u + 1]};
          Mma<kType>(to, a, key.word[2 * u], key.word[2 * u + 1]);
        }
      }
      if constexpr (kType == KvType::kQ8_0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float scale =
              HalfBitsToFloat(static_cast<uint16_t>(scales.word[j] >> (i % 2 * 16)));
          scores.of[j][i] = fmaf(of_step[i], scale, scores.of[j][i]);
        }
      }
    }
  }
}

// Scores become weights. The lanes of a row are four.
__device__ inline void Weigh(const TileRow (&rows)[2], int base, BlockWeights& block) {
  const int first = base + static_cast<int>(threadIdx.x % 4) * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const AttentionRow& seen = rows[half].seen;
    float best = -INFINITY;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& score = block.of[i / 2][half * 2 + i % 2];
      const bool sees = first + i >= seen.first && first + i < seen.end;
      score = sees ? rows[half].scale * score : -INFINITY;
      best = fmaxf(best, score);
    }
    best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 1));
    best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 2));
    const float from = best == -INFINITY ? 0.0f : best;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& weight = block.of[i / 2][half * 2 + i % 2];
      weight = Exp(weight - from);
      total += weight;
    }
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    block.best[half] = best;
    block.total[half] = total;
  }
}

template <KvType kType, int kSteps, int kAhead>
__device__ BlockWeights WeightsOf(const AttentionParams& p, const TileRow (&rows)[2],
                                  const BlockKeys& keys, const char* queries, char* ahead,
                                  int base) {
  BlockWeights block = {};
  Score<kType, kSteps, kAhead>(p.cache, keys, queries, ahead, block);
  Weigh(rows, base, block);
  return block;
}

// The first operand of weights . values: [u][part][i] as mma takes it, places 8 t + 4 u ...
struct WeightParts {
  uint32_t of[2][2][4];
};

// What a lane needs of a block's values.
struct BlockValues {
  const char* page = nullptr;  // of places 8 t .. 8 t + 7
  int slot = 0;
  uint32_t seen[4];  // masks of the pairs of places: what no row sees may be anything
};
__device__ inline BlockValues ValuesOf(const CacheView& cache, const TilePlaces& places, int base) {
  const int own = base + static_cast<int>(threadIdx.x % 4) * 8;
  BlockValues values;
  values.page = places.Page(cache, own);
  values.slot = own % cache.page_tokens;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int first = own + 2 * i, second = first + 1;
    values.seen[i] = (first >= places.begin && first < places.end ? 0xffffu : 0u) |
                     (second >= places.begin && second < places.end ? 0xffff0000u : 0u);
  }
  return values;
}

// For the dimensions of one step: codes have their scales in the weights.
template <KvType kType>
__device__ WeightParts SplitWeights(const CacheView& cache, const BlockWeights& block,
                                    const BlockValues& values, int step) {
  Bytes16 scales = {};
  if (kType == KvType::kQ8_0 && values.page != nullptr) {
    scales = Load16(values.page + cache.ScaleOffset(true, values.slot, step));
  }
  WeightParts parts;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float factor[2] = {1.0f, 1.0f};
    if constexpr (kType == KvType::kQ8_0) {
      const uint32_t pair = scales.word[j] & values.seen[j];
      factor[0] = HalfBitsToFloat(static_cast<uint16_t>(pair));
      factor[1] = HalfBitsToFloat(static_cast<uint16_t>(pair >> 16));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const PairParts of =
          PartsOf<kType>(block.of[j][half * 2] * factor[0], block.of[j][half * 2 + 1] * factor[1]);
      parts.of[j / 2][0][j % 2 * 2 + half] = of.high;
      parts.of[j / 2][1][j % 2 * 2 + half] = of.low;
    }
  }
  return parts;
}

// The lane's values of 8 dimensions from d on.
template <KvType kType>
__device__ Bytes16 LoadValues(const CacheView& cache, const BlockValues& values, int d) {
  Bytes16 of = {};
  if (values.page == nullptr || d >= cache.head_dim) return of;
  const int g = static_cast<int>(threadIdx.x % 32 / 4);
  return LoadEight<kType>(values.page, cache.ValueIndex(values.slot, d + g));
}

// sums = weights . values for 8 dimensions.
template <KvType kType>
__device__ void SumValues(const WeightParts& parts, const BlockValues& values, Bytes16 of,
                          float (&sums)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    of.word[i] &= values.seen[i];
    sums[i] = 0.0f;
  }
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    Mma<kType>(sums, parts.of[u][0], of.word[2 * u], of.word[2 * u + 1]);
    Mma<kType>(sums, parts.of[u][1], of.word[2 * u], of.word[2 * u + 1]);
  }
}

// A softmax over some places, without its sums: what puts a later part behind it.
struct Running {
  float best = -INFINITY, total = 0.0f;
};
struct Factors {
  float keep, take;
};
__device__ inline Factors Join(Running& state, float best, float total) {
  const float now = fmaxf(best, state.best);
  const Factors factors = {Exp(state.best - now), Exp(best - now)};
  state.total = fmaf(state.total, factors.keep, total * factors.take);
  state.best = now;
  return factors;
}

}  // namespace echelon::cuda
