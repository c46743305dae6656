#pragma once
// Attention of a tile of query vectors over one split of positions in float, and the merge of
// splits. Keys lie with a lane per position, values with a lane per element: no sum ever crosses
// lanes but the maximum and the total of a split. A vector's sums are the same whatever tile it is
// in: where the vectors of a tile see different positions, each adds those that not all see by
// itself. Codes of 8 bits: attention_q8_inl.h.

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/math_inl.h"

namespace echelon::cpu {
namespace {

template <typename V>
struct KvF32 {
  using Element = float;
  static typename V::F Load(const float* p) { return V::Load(p); }
  static void Store(float* p, typename V::F v) { V::Store(p, v); }
};
template <typename V>
struct KvF16 {
  using Element = uint16_t;
  static typename V::F Load(const uint16_t* p) { return V::LoadHalf(p); }
  static void Store(uint16_t* p, typename V::F v) { V::StoreHalf(p, v); }
};

// Query vectors that share each key and value loaded: as many as there are registers for their
// sums, two a vector while scoring.
template <typename V>
constexpr int kQueriesMax = V::kSums / 2;

// Calls body.operator()<n>(first) for tiles of n vectors that cover [0, count).
template <typename V, typename Body>
void ForQueryTiles(int count, Body body) {
  int first = 0;
  const auto tiles = [&]<int kQueries>() {
    if constexpr (kQueries <= kQueriesMax<V>) {
      for (; first + kQueries <= count; first += kQueries) {
        body.template operator()<kQueries>(first);
      }
    }
  };
  tiles.template operator()<12>();
  tiles.template operator()<8>();
  tiles.template operator()<6>();
  tiles.template operator()<4>();
  tiles.template operator()<3>();
  tiles.template operator()<2>();
  tiles.template operator()<1>();
}

// A tile's vectors as (D, n): what one key element is multiplied with lies together.
template <typename V>
void PackFloats(const float* const* queries, int count, int head_dim, float* packed) {
  ForQueryTiles<V>(count, [&]<int kQueries>(int first) {
    float* out = packed + first * head_dim;
    for (int v = 0; v < kQueries; ++v) {
      const float* query = queries[first + v];
      for (int d = 0; d < head_dim; ++d) out[d * kQueries + v] = query[d];
    }
  });
}

// Scores of kTiles * 16 positions: even and odd elements of q in two sums (their latency overlaps).
// Few vectors wait for memory and not for arithmetic: keys of some tiles later, and the values that
// the second pass over the split will read, are asked for meanwhile, a line each for a line of keys
// consumed.
constexpr int kTilesAhead = 4;
template <typename V, typename Kv, int kQueries, int kTiles>
void ScoreTiles(const SplitArgs& args, const float* queries, int tile, int tile_end,
                float (*scores)[kAttentionSplit]) {
  using F = typename V::F;
  const typename Kv::Element *keys[kTiles], *next_keys[kTiles], *values[kTiles];
  F even[kTiles][kQueries], odd[kTiles][kQueries];
  for (int i = 0; i < kTiles; ++i) {
    const int next = tile + i + kTilesAhead < tile_end ? tile + i + kTilesAhead : tile + i;
    keys[i] = static_cast<const typename Kv::Element*>(args.tiles[tile + i].keys);
    next_keys[i] = static_cast<const typename Kv::Element*>(args.tiles[next].keys);
    values[i] = static_cast<const typename Kv::Element*>(args.tiles[tile + i].values);
    for (int v = 0; v < kQueries; ++v) even[i][v] = odd[i][v] = V::Zero();
  }
#pragma GCC unroll 1
  for (int d = 0; d < args.shape.head_dim; d += 2) {
    for (int i = 0; i < kTiles && kQueries <= kFewQueries; ++i) {
      __builtin_prefetch(next_keys[i] + 16 * d);
      __builtin_prefetch(values[i] + 16 * d, 0, 2);
    }
    F first[kTiles], second[kTiles];
    for (int i = 0; i < kTiles; ++i) first[i] = Kv::Load(keys[i] + 16 * d);
    for (int v = 0; v < kQueries; ++v) {
      const F query = V::Set(queries[d * kQueries + v]);
      for (int i = 0; i < kTiles; ++i) even[i][v] = V::Fma(first[i], query, even[i][v]);
    }
    for (int i = 0; i < kTiles; ++i) second[i] = Kv::Load(keys[i] + 16 * d + 16);
    for (int v = 0; v < kQueries; ++v) {
      const F query = V::Set(queries[d * kQueries + kQueries + v]);
      for (int i = 0; i < kTiles; ++i) odd[i][v] = V::Fma(second[i], query, odd[i][v]);
    }
  }
  const F scale = V::Set(args.scale);
  for (int v = 0; v < kQueries; ++v) {
    for (int i = 0; i < kTiles; ++i) {
      V::Store(scores[v] + 16 * (tile + i), V::Mul(V::Add(even[i][v], odd[i][v]), scale));
    }
  }
}

// Makes weights exp(score - best) of the scores of positions [begin, end), and their best and sum.
template <typename V>
void Weigh(float* scores, int begin, int end, float* best_of_all, float* sum_of_all) {
  using F = typename V::F;
  const int tile_begin = begin / 16, tile_end = (end + 15) / 16;
  const F nothing = V::Set(-__builtin_inff());
  F best = nothing;
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    F score = V::Load(scores + 16 * tile);
    // Lanes of positions that are not seen hold whatever lies in the cache: replaced, not weighed.
    const int first = begin > 16 * tile ? begin - 16 * tile : 0;
    const int last = end < 16 * tile + 16 ? end - 16 * tile : 16;
    if (last - first < 16) {
      score = V::SelectRange(score, nothing, first, last);
      V::Store(scores + 16 * tile, score);
    }
    best = V::Max(best, score);
  }
  *best_of_all = V::MaxLanes(best);
  const F most = V::Set(*best_of_all);
  F total = V::Zero();
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    const F weight = Exp<V>(V::Sub(V::Load(scores + 16 * tile), most));
    V::Store(scores + 16 * tile, weight);
    total = V::Add(total, weight);
  }
  *sum_of_all = V::SumLanes(total);
}

// Adds weight * value of positions [begin, end), ascending, to elements [16 piece, 16 (piece + n)).
template <typename V, typename Kv, int kQueries, int kPieces>
void AddPieces(const SplitArgs& args, const float (*weights)[kAttentionSplit], int begin, int end,
               int piece, float* const* slots) {
  using F = typename V::F;
  const int stride = args.shape.stride();
  F sums[kQueries][kPieces];
  for (int v = 0; v < kQueries; ++v) {
    for (int c = 0; c < kPieces; ++c) sums[v][c] = V::Load(slots[v] + 16 * (piece + c));
  }
  for (int p = begin; p < end;) {
    const auto* row = static_cast<const typename Kv::Element*>(args.tiles[p / 16].values) +
                      (p % 16) * stride + 16 * piece;
    const int stop = (p / 16 + 1) * 16 < end ? (p / 16 + 1) * 16 : end;
    // As many lines of the next split's keys as of values here, while the first elements are added.
    const bool asks = kQueries <= kFewQueries && piece == 0 && args.ahead[p / 16] != nullptr;
    const std::byte* ahead = asks ? args.ahead[p / 16] : nullptr;
    const int64_t ahead_bytes = asks ? args.shape.KeyBytes() / 16 : 0;
    ahead += p % 16 * ahead_bytes;
#pragma GCC unroll 1
    for (; p < stop; ++p, row += stride) {
      for (int64_t byte = 0; byte < ahead_bytes; byte += 64) __builtin_prefetch(ahead + byte, 0, 2);
      ahead += ahead_bytes;
      F values[kPieces];
      for (int c = 0; c < kPieces; ++c) values[c] = Kv::Load(row + 16 * c);
      for (int v = 0; v < kQueries; ++v) {
        const F weight = V::Set(weights[v][p]);
        for (int c = 0; c < kPieces; ++c) sums[v][c] = V::Fma(values[c], weight, sums[v][c]);
      }
    }
  }
  for (int v = 0; v < kQueries; ++v) {
    for (int c = 0; c < kPieces; ++c) V::Store(slots[v] + 16 * (piece + c), sums[v][c]);
  }
}

template <typename V, typename Kv, int kQueries>
void AddValues(const SplitArgs& args, const float (*weights)[kAttentionSplit], int begin, int end,
               float* const* slots) {
  if (begin >= end) return;
  constexpr int kPieces = V::kSums >= 4 * kQueries ? 4 : 2;
  const int pieces = args.shape.stride() / 16;
  int piece = 0;
  for (; piece + kPieces <= pieces; piece += kPieces) {
    AddPieces<V, Kv, kQueries, kPieces>(args, weights, begin, end, piece, slots);
  }
  for (; piece < pieces; ++piece) {
    AddPieces<V, Kv, kQueries, 1>(args, weights, begin, end, piece, slots);
  }
}

// What the vectors [first, first + kQueries) of a call see of its split: each its own positions,
// some of them those of [least, most), all of them those of [common_begin, common_end).
template <int kQueries>
struct SeenBy {
  const int *begins, *ends;
  int least = kAttentionSplit, most = 0, common_begin = 0, common_end = kAttentionSplit;

  SeenBy(const SplitArgs& args, int first) : begins(args.begins + first), ends(args.ends + first) {
    for (int v = 0; v < kQueries; ++v) {
      common_begin = begins[v] > common_begin ? begins[v] : common_begin;
      common_end = ends[v] < common_end ? ends[v] : common_end;
      if (Nothing(v)) continue;
      least = begins[v] < least ? begins[v] : least;
      most = ends[v] > most ? ends[v] : most;
    }
    if (common_begin > common_end) common_begin = common_end = most;
  }
  bool Nothing(int v) const { return begins[v] >= ends[v]; }
  int tile_begin() const { return least / 16; }
  int tile_end() const { return (most + 15) / 16; }
};

// Calls score.operator()<n>(tile) for the tiles that any vector sees, n at a time.
template <typename V, int kQueries, typename Score>
void ForKeyTiles(const SeenBy<kQueries>& seen, Score score) {
  int tile = seen.tile_begin();
  if constexpr (V::kSums >= 4 * kQueries) {
    for (; tile + 2 <= seen.tile_end(); tile += 2) score.template operator()<2>(tile);
  }
  for (; tile < seen.tile_end(); ++tile) score.template operator()<1>(tile);
}

// Those that ScoreTiles does not ask for in time.
inline void AskForFirstKeys(const SplitArgs& args, int tile_begin, int tile_end) {
  const int stop = tile_end < tile_begin + kTilesAhead ? tile_end : tile_begin + kTilesAhead;
  for (int tile = tile_begin; tile < stop; ++tile) {
    const auto* keys = static_cast<const std::byte*>(args.tiles[tile].keys);
    for (int64_t byte = 0; byte < args.shape.KeyBytes(); byte += 64) {
      __builtin_prefetch(keys + byte);
    }
  }
}

template <typename V, typename Kv, int kQueries>
void AttendTile(const SplitArgs& args, int first) {
  alignas(64) float weights[kQueries][kAttentionSplit];
  const auto* queries =
      reinterpret_cast<const float*>(args.queries + first * PackedQueryBytes(args.shape.head_dim));
  float* const* slots = args.slots + first;
  const int stride = args.shape.stride();
  const SeenBy<kQueries> seen(args, first);
  if constexpr (kQueries <= kFewQueries) AskForFirstKeys(args, seen.tile_begin(), seen.tile_end());
  ForKeyTiles<V>(seen, [&]<int kTiles>(int tile) {
    ScoreTiles<V, Kv, kQueries, kTiles>(args, queries, tile, seen.tile_end(), weights);
  });
  for (int v = 0; v < kQueries; ++v) {
    if (seen.Nothing(v)) continue;
    float* slot = slots[v];
    const int begin = seen.begins[v], end = seen.ends[v];
    Weigh<V>(weights[v], begin, end, slot + stride, slot + stride + 1);
    for (int i = 0; i < stride; i += 16) V::Store(slot + i, V::Zero());
    AddValues<V, Kv, 1>(args, weights + v, begin, seen.common_begin < end ? seen.common_begin : end,
                        slots + v);
  }
  AddValues<V, Kv, kQueries>(args, weights, seen.common_begin, seen.common_end, slots);
  for (int v = 0; v < kQueries; ++v) {
    const int begin = seen.begins[v];
    AddValues<V, Kv, 1>(args, weights + v, seen.common_end > begin ? seen.common_end : begin,
                        seen.ends[v], slots + v);
  }
}

// The factors of up to 16 merges are two exponentials in all.
template <typename V>
void MergeSplits(float* const* slots, const float* const* later, int count, int value_stride) {
  float keep[16], take[16];
  for (int v = 0; v < 16; ++v) {
    const float best = v < count ? slots[v][value_stride] : 0.0f;
    const float other = v < count ? later[v][value_stride] : 0.0f;
    const float most = best > other ? best : other;
    keep[v] = best - most;
    take[v] = other - most;
    if (v < count) slots[v][value_stride] = most;
  }
  V::Store(keep, Exp<V>(V::Load(keep)));
  V::Store(take, Exp<V>(V::Load(take)));
  for (int v = 0; v < count; ++v) {
    float* sums = slots[v];
    for (int i = 0; i < value_stride; i += 16) {
      const auto kept = V::Mul(V::Load(sums + i), V::Set(keep[v]));
      V::Store(sums + i, V::Fma(V::Load(later[v] + i), V::Set(take[v]), kept));
    }
    float& total = sums[value_stride + 1];
    total = __builtin_fmaf(later[v][value_stride + 1], take[v], total * keep[v]);
  }
}

template <typename V, typename Kv>
void StoreKeyFloats(const float* key, int head_dim, void* tile, int lane) {
  auto* out = static_cast<typename Kv::Element*>(tile) + lane;
  for (int d = 0; d < head_dim; d += 16) {
    const int count = head_dim - d < 16 ? head_dim - d : 16;
    typename Kv::Element piece[16];
    Kv::Store(piece, V::LoadN(key + d, count));
    for (int i = 0; i < count; ++i) out[16 * (d + i)] = piece[i];
  }
}

template <typename V, typename Kv>
void StoreValueFloats(const float* value, const KvTileShape& shape, void* tile, int lane) {
  auto* out = static_cast<typename Kv::Element*>(tile) + lane * shape.stride();
  for (int d = 0; d < shape.head_dim; d += 16) {
    const int count = shape.head_dim - d < 16 ? shape.head_dim - d : 16;
    Kv::Store(out + d, V::LoadN(value + d, count));
  }
}

}  // namespace
}  // namespace echelon::cpu
