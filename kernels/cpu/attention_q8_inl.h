#pragma once
// Attention over keys and values in Q8_0. A cached number takes part as the integer that is stored:
// the query, and each vector's softmax weights, become codes of 15 bits with a scale of their own
// (as activations do in a product), and pairs of codes are multiplied and added in int32. Widening
// 32 bytes to words and a dot for each vector are 4 instructions where floats take 10 (two
// conversions of two instructions, two multiply-adds for each of three vectors).
//
// Integer sums are exact in any order, so what a vector gets does not depend on the tile it is in,
// on the instruction set, or on positions that others see: their codes are zero. A code of a query
// or weight is off by at most 1 / 32512 of the largest one; what is stored, by 1 / 254.
//
// Nothing overflows: a block of a key sums 32 products, a split of values 256, each at most
// 16256 * 128: 5.3e8, a quarter of what int32 holds.

#include <cstdint>

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/rows_inl.h"

namespace echelon::cpu {
namespace {

constexpr int kPairBytes = 2 * kTilePositions;  // of a key tile: a pair of elements of 16 positions

// How many sums a dot's instructions should be spread over: with few, each waits for the one before
// it (5 cycles). What they sum is exact, so they may be added up at the end.
template <typename V, int kDots>
constexpr int kChains = V::kSums >= 4 * kDots ? 2 : 1;

// A tile of n vectors as codes (D / 2, n, 2), then scales (B, n).
template <typename V>
void PackQueryCodes(const float* const* queries, int count, int head_dim, std::byte* packed) {
  ForQueryTiles<V>(count, [&]<int kQueries>(int first) {
    std::byte* tile = packed + first * PackedQueryBytes(head_dim);
    auto* codes = reinterpret_cast<int16_t*>(tile);
    auto* scales = reinterpret_cast<float*>(tile + int64_t{2} * kQueries * head_dim);
    for (int v = 0; v < kQueries; ++v) {
      for (int d = 0; d < head_dim; d += kKvBlock) {
        const int count_here = head_dim - d < kKvBlock ? head_dim - d : kKvBlock;
        float group[kKvBlock] = {}, sum;
        int16_t coded[kKvBlock];
        for (int i = 0; i < count_here; ++i) group[i] = queries[v + first][d + i];
        QuantiseGroup<V>(
            group, {.codes = coded, .scales = scales + d / kKvBlock * kQueries + v, .sums = &sum},
            0);
        for (int i = 0; i < count_here; ++i) {
          codes[((d + i) / 2 * kQueries + v) * 2 + i % 2] = coded[i];
        }
      }
    }
  });
}

// Scores of kTiles * 16 positions: for each block the exact dot times both scales, blocks added in
// ascending order. What is asked for ahead: as in ScoreTiles.
template <typename V, int kQueries, int kTiles>
void ScoreTilesQ8(const SplitArgs& args, const std::byte* packed, int tile, int tile_end,
                  float (*scores)[kAttentionSplit]) {
  using F = typename V::F;
  using I = typename V::I;
  constexpr int kSpread = kChains<V, kQueries * kTiles>;
  const int pairs = args.shape.head_dim / 2;
  const auto* codes = reinterpret_cast<const int16_t*>(packed);
  const auto* scales = reinterpret_cast<const float*>(codes + 2 * kQueries * pairs);
  const std::byte *keys[kTiles], *next_keys[kTiles], *values[kTiles];
  F sums[kTiles][kQueries];
  for (int i = 0; i < kTiles; ++i) {
    const int next = tile + i + kTiles < tile_end ? tile + i + kTiles : tile + i;
    keys[i] = static_cast<const std::byte*>(args.tiles[tile + i].keys);
    next_keys[i] = static_cast<const std::byte*>(args.tiles[next].keys);
    values[i] = static_cast<const std::byte*>(args.tiles[tile + i].values);
    for (int v = 0; v < kQueries; ++v) sums[i][v] = V::Zero();
  }
  for (int block = 0; 16 * block < pairs; ++block) {
    I dots[kSpread][kTiles][kQueries];
    for (auto& chain : dots) {
      for (auto& of_tile : chain) {
        for (I& dot : of_tile) dot = V::ZeroInt();
      }
    }
    const auto add_pair = [&](auto& chain, int pair) __attribute__((always_inline)) {
      I words[kTiles];
      for (int i = 0; i < kTiles; ++i) words[i] = V::WidenBytes(keys[i] + kPairBytes * pair);
      for (int v = 0; v < kQueries; ++v) {
        const I query = V::SetPair(codes + 2 * (kQueries * pair + v));
        for (int i = 0; i < kTiles; ++i) chain[i][v] = V::Dot(chain[i][v], words[i], query);
      }
    };
    const int end = pairs < 16 * block + 16 ? pairs : 16 * block + 16;
    int pair = 16 * block;
#pragma GCC unroll 1
    for (; pair + 2 <= end; pair += 2) {
      for (int i = 0; i < kTiles && kTiles > 1; ++i) {
        __builtin_prefetch(next_keys[i] + kPairBytes * pair);
        __builtin_prefetch(values[i] + kPairBytes * pair);
      }
      add_pair(dots[0], pair);
      add_pair(dots[kSpread - 1], pair + 1);
    }
    if (pair < end) add_pair(dots[0], pair);
    for (int i = 0; i < kTiles; ++i) {
      const auto* halves = reinterpret_cast<const uint16_t*>(keys[i] + args.shape.KeyScales());
      const F key_scale = V::LoadHalf(halves + kTilePositions * block);
      for (int v = 0; v < kQueries; ++v) {
        I dot = dots[0][i][v];
        if constexpr (kSpread > 1) dot = V::AddInt(dot, dots[1][i][v]);
        const F factor = V::Mul(key_scale, V::Set(scales[block * kQueries + v]));
        sums[i][v] = V::Fma(V::ToFloat(dot), factor, sums[i][v]);
      }
    }
  }
  const F scale = V::Set(args.scale);
  for (int v = 0; v < kQueries; ++v) {
    for (int i = 0; i < kTiles; ++i) {
      V::Store(scores[v] + 16 * (tile + i), V::Mul(sums[i][v], scale));
    }
  }
}

// The weights of positions [begin, end) times the scales of their values' block, as codes; zero for
// the other positions of tiles [tile_begin, tile_end), both even. Returns the codes' scale.
template <typename V>
float CodeWeights(const SplitArgs& args, const float* weights, int begin, int end, int block,
                  int tile_begin, int tile_end, int16_t* codes) {
  using F = typename V::F;
  alignas(64) float products[kAttentionSplit];
  F most_of_lane = V::Zero();
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    const int first = begin > 16 * tile ? begin - 16 * tile : 0;
    const int last = end < 16 * tile + 16 ? end - 16 * tile : 16;
    F product = V::Zero();
    if (first < last) {
      const auto* values = static_cast<const std::byte*>(args.tiles[tile].values);
      const auto* halves = reinterpret_cast<const uint16_t*>(values + args.shape.ValueScales());
      product = V::Mul(V::Load(weights + 16 * tile), V::LoadHalf(halves + 16 * block));
      // Scales of positions that are not seen are whatever lies in the cache.
      if (last - first < 16) product = V::SelectRange(product, V::Zero(), first, last);
    }
    V::Store(products + 16 * tile, product);
    most_of_lane = V::Max(most_of_lane, product);
  }
  const float most = V::MaxLanes(most_of_lane);
  const F inverse = V::Set(most < kLeastCoded ? 0.0f : kCodeLimit / most);
  for (int p = 16 * tile_begin; p < 16 * tile_end; p += 32) {
    const F a = V::Mul(V::Load(products + p), inverse);
    const F b = V::Mul(V::Load(products + p + 16), inverse);
    V::StoreInt16(codes + p, V::Round(a), V::Round(b));
  }
  return most < kLeastCoded ? 0.0f : most / kCodeLimit;
}

// Sums over the split of code * value for the kPieces * 16 elements of a block: exact.
template <typename V, int kQueries, int kPieces>
void SumBlock(const SplitArgs& args, const int16_t (*codes)[kAttentionSplit],
              const SeenBy<kQueries>& seen, int block, const float* scales, float* const* slots) {
  using I = typename V::I;
  constexpr int kSpread = kChains<V, kQueries * kPieces>;
  I sums[kSpread][kQueries][kPieces];
  for (auto& chain : sums) {
    for (auto& of_vector : chain) {
      for (I& sum : of_vector) sum = V::ZeroInt();
    }
  }
  const auto add_pair = [&](auto& chain, const std::byte* row, int position)
      __attribute__((always_inline)) {
    I words[kPieces];
    for (int c = 0; c < kPieces; ++c) words[c] = V::WidenBytes(row + kPairBytes * c);
    for (int v = 0; v < kQueries; ++v) {
      const I weight = V::SetPair(codes[v] + position);
      for (int c = 0; c < kPieces; ++c) chain[v][c] = V::Dot(chain[v][c], words[c], weight);
    }
  };
  constexpr int kRowBytes = kPairBytes * kPieces;  // two positions
  for (int tile = seen.tile_begin(); tile < seen.tile_end(); ++tile) {
    const auto* row =
        static_cast<const std::byte*>(args.tiles[tile].values) + kTilePositions * kKvBlock * block;
#pragma GCC unroll 1
    for (int i = 0; i < 16; i += 4, row += 2 * kRowBytes) {
      add_pair(sums[0], row, 16 * tile + i);
      add_pair(sums[kSpread - 1], row + kRowBytes, 16 * tile + i + 2);
    }
  }
  for (int v = 0; v < kQueries; ++v) {
    if (seen.Nothing(v)) continue;
    for (int c = 0; c < kPieces; ++c) {
      I sum = sums[0][v][c];
      if constexpr (kSpread > 1) sum = V::AddInt(sum, sums[1][v][c]);
      V::Store(slots[v] + kKvBlock * block + 16 * c, V::Mul(V::ToFloat(sum), V::Set(scales[v])));
    }
  }
}

template <typename V, int kQueries>
void AttendTileQ8(const SplitArgs& args, int first) {
  alignas(64) float weights[kQueries][kAttentionSplit];
  alignas(64) int16_t codes[kQueries][kAttentionSplit];
  const std::byte* queries = args.queries + first * PackedQueryBytes(args.shape.head_dim);
  float* const* slots = args.slots + first;
  const int stride = args.shape.stride();
  const SeenBy<kQueries> seen(args, first);
  ForKeyTiles<V>(seen, [&]<int kTiles>(int tile) {
    ScoreTilesQ8<V, kQueries, kTiles>(args, queries, tile, seen.tile_end(), weights);
  });
  for (int v = 0; v < kQueries; ++v) {
    if (seen.Nothing(v)) continue;
    Weigh<V>(weights[v], seen.begins[v], seen.ends[v], slots[v] + stride, slots[v] + stride + 1);
  }
  const int tile_begin = seen.tile_begin() / 2 * 2, tile_end = (seen.tile_end() + 1) / 2 * 2;
  for (int block = 0; block < args.shape.blocks(); ++block) {
    float scales[kQueries];
    for (int v = 0; v < kQueries; ++v) {
      scales[v] = CodeWeights<V>(args, weights[v], seen.begins[v], seen.ends[v], block, tile_begin,
                                 tile_end, codes[v]);
    }
    if (stride - kKvBlock * block > 16) {
      SumBlock<V, kQueries, 2>(args, codes, seen, block, scales, slots);
    } else {
      SumBlock<V, kQueries, 1>(args, codes, seen, block, scales, slots);
    }
  }
}

// A block of up to 32 values as GGML's Q8_0 rounds them: the scale is the largest magnitude / 127
// in float16, a code the nearest to value / scale. Codes behind `count` are zero. Returns the
// scale.
template <typename V>
uint16_t CodeBlock(const float* values, int count, int8_t* codes) {
  using F = typename V::F;
  F pieces[2] = {V::LoadN(values, count < 16 ? count : 16),
                 count > 16 ? V::LoadN(values + 16, count - 16) : V::Zero()};
  const float most = V::MaxLanes(V::Max(V::Abs(pieces[0]), V::Abs(pieces[1])));
  uint16_t halves[16];
  float scales[16];
  V::StoreHalf(halves, V::Set(most / 127.0f));
  V::Store(scales, V::LoadHalf(halves));
  for (F& piece : pieces) {
    piece = scales[0] == 0.0f ? V::Zero() : V::Round(V::Div(piece, V::Set(scales[0])));
    // Small scales are rounded so coarsely that a code may leave the byte.
    piece = V::Max(V::Set(-128.0f), V::Min(V::Set(127.0f), piece));
  }
  int16_t words[kKvBlock];
  V::StoreInt16(words, pieces[0], pieces[1]);
  for (int i = 0; i < kKvBlock; ++i) codes[i] = static_cast<int8_t>(words[i]);
  return halves[0];
}

template <typename V>
void StoreKeyCodes(const KvTileShape& shape, const float* key, void* tile, int lane) {
  auto* codes = static_cast<int8_t*>(tile);
  auto* scales = reinterpret_cast<uint16_t*>(codes + shape.KeyScales());
  for (int b = 0; b < shape.blocks(); ++b) {
    const int begin = kKvBlock * b;
    const int count = shape.head_dim - begin < kKvBlock ? shape.head_dim - begin : kKvBlock;
    int8_t coded[kKvBlock];
    scales[kTilePositions * b + lane] = CodeBlock<V>(key + begin, count, coded);
    for (int i = 0; i < count; ++i) codes[shape.KeyCode(begin + i, lane)] = coded[i];
  }
}

template <typename V>
void StoreValueCodes(const KvTileShape& shape, const float* value, void* tile, int lane) {
  auto* codes = static_cast<int8_t*>(tile);
  auto* scales = reinterpret_cast<uint16_t*>(codes + shape.ValueScales());
  for (int b = 0; b < shape.blocks(); ++b) {
    const int begin = kKvBlock * b;
    const int count = shape.head_dim - begin < kKvBlock ? shape.head_dim - begin : kKvBlock;
    const int stored = shape.stride() - begin < kKvBlock ? shape.stride() - begin : kKvBlock;
    int8_t coded[kKvBlock];
    scales[kTilePositions * b + lane] = CodeBlock<V>(value + begin, count, coded);
    for (int i = 0; i < stored; ++i) codes[shape.ValueCode(begin + i, lane)] = coded[i];
  }
}

}  // namespace
}  // namespace echelon::cpu
