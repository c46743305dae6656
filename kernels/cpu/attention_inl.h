#pragma once
// Attention of a few query heads over one split of positions, and the merge of splits. Keys lie
// with a lane per position, values with a lane per element: no sum ever crosses lanes but the
// maximum and the total of a split.

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

// Scores of 16 positions: even and odd elements of q in two sums (their latency overlaps).
template <typename V, typename Kv, int kHeads>
void ScoreTile(const SplitArgs& args, const KvTile& tile, typename V::F* scores) {
  const auto* keys = static_cast<const typename Kv::Element*>(tile.keys);
  typename V::F even[kHeads], odd[kHeads];
  for (int h = 0; h < kHeads; ++h) even[h] = odd[h] = V::Zero();
  for (int d = 0; d < args.head_dim; d += 2) {
    const auto first = Kv::Load(keys + 16 * d), second = Kv::Load(keys + 16 * d + 16);
    for (int h = 0; h < kHeads; ++h) {
      even[h] = V::Fma(first, V::Set(args.q[h][d]), even[h]);
      odd[h] = V::Fma(second, V::Set(args.q[h][d + 1]), odd[h]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    scores[h] = V::Mul(V::Add(even[h], odd[h]), V::Set(args.scale));
  }
}

// Adds weight * value, positions ascending, to elements [16 piece, 16 (piece + kPieces)).
template <typename V, typename Kv, int kHeads, int kPieces>
void SumPieces(const SplitArgs& args, const float (*weights)[kAttentionSplit], int piece) {
  typename V::F sums[kHeads][kPieces];
  for (int h = 0; h < kHeads; ++h) {
    for (int c = 0; c < kPieces; ++c) sums[h][c] = V::Zero();
  }
  for (int p = args.begin; p < args.end; ++p) {
    const auto* row = static_cast<const typename Kv::Element*>(args.tiles[p / 16].values) +
                      (p % 16) * args.value_stride + 16 * piece;
    for (int c = 0; c < kPieces; ++c) {
      const auto value = Kv::Load(row + 16 * c);
      for (int h = 0; h < kHeads; ++h) {
        sums[h][c] = V::Fma(value, V::Set(weights[h][p]), sums[h][c]);
      }
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int c = 0; c < kPieces; ++c) V::Store(args.sums[h] + 16 * (piece + c), sums[h][c]);
  }
}

template <typename V, typename Kv, int kHeads>
void AttendHeads(SplitArgs& args) {
  using F = typename V::F;
  alignas(64) float weights[kHeads][kAttentionSplit];
  const int tile_begin = args.begin / 16, tile_end = (args.end + 15) / 16;
  const F nothing = V::Set(-__builtin_inff());
  F best[kHeads];
  for (int h = 0; h < kHeads; ++h) best[h] = nothing;
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    F scores[kHeads];
    ScoreTile<V, Kv, kHeads>(args, args.tiles[tile], scores);
    // Lanes of positions that are not seen hold whatever lies in the cache: replaced, not weighed.
    const int first = args.begin > 16 * tile ? args.begin - 16 * tile : 0;
    const int last = args.end < 16 * tile + 16 ? args.end - 16 * tile : 16;
    for (int h = 0; h < kHeads; ++h) {
      if (last - first < 16) scores[h] = V::SelectRange(scores[h], nothing, first, last);
      best[h] = V::Max(best[h], scores[h]);
      V::Store(weights[h] + 16 * tile, scores[h]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    args.best[h] = V::MaxLanes(best[h]);
    const F most = V::Set(args.best[h]);
    F total = V::Zero();
    for (int tile = tile_begin; tile < tile_end; ++tile) {
      const F weight = Exp<V>(V::Sub(V::Load(weights[h] + 16 * tile), most));
      V::Store(weights[h] + 16 * tile, weight);
      total = V::Add(total, weight);
    }
    args.total[h] = V::SumLanes(total);
  }
  const int pieces = args.value_stride / 16;
  int piece = 0;
  for (; piece + 4 <= pieces; piece += 4) SumPieces<V, Kv, kHeads, 4>(args, weights, piece);
  for (; piece < pieces; ++piece) SumPieces<V, Kv, kHeads, 1>(args, weights, piece);
}

template <typename V, typename Kv>
void AttendType(SplitArgs& args) {
  static_assert(kHeadsAtOnce == 4);
  switch (args.heads) {
    case 1:
      return AttendHeads<V, Kv, 1>(args);
    case 2:
      return AttendHeads<V, Kv, 2>(args);
    case 3:
      return AttendHeads<V, Kv, 3>(args);
    default:
      return AttendHeads<V, Kv, 4>(args);
  }
}

template <typename V>
void AttendSplit(SplitArgs& args) {
  if (args.type == KvType::kF32) return AttendType<V, KvF32<V>>(args);
  AttendType<V, KvF16<V>>(args);
}

template <typename V>
float ExpOne(float x) {
  float out[16];
  V::Store(out, Exp<V>(V::Set(x)));
  return out[0];
}

template <typename V>
void MergeSplit(float* sums, float* best, float* total, const float* other_sums, float other_best,
                float other_total, int n) {
  const float most = *best > other_best ? *best : other_best;
  const float keep = ExpOne<V>(*best - most), take = ExpOne<V>(other_best - most);
  for (int i = 0; i < n; i += 16) {
    const auto kept = V::Mul(V::Load(sums + i), V::Set(keep));
    V::Store(sums + i, V::Fma(V::Load(other_sums + i), V::Set(take), kept));
  }
  *total = __builtin_fmaf(other_total, take, *total * keep);
  *best = most;
}

template <typename V, typename Kv>
void StoreKeyLane(const float* key, int head_dim, void* lane) {
  auto* out = static_cast<typename Kv::Element*>(lane);
  for (int d = 0; d < head_dim; d += 16) {
    const int count = head_dim - d < 16 ? head_dim - d : 16;
    typename Kv::Element piece[16];
    Kv::Store(piece, V::LoadN(key + d, count));
    for (int i = 0; i < count; ++i) out[16 * (d + i)] = piece[i];
  }
}

template <typename V>
void StoreKey(KvType type, const float* key, int head_dim, void* lane) {
  if (type == KvType::kF32) return StoreKeyLane<V, KvF32<V>>(key, head_dim, lane);
  StoreKeyLane<V, KvF16<V>>(key, head_dim, lane);
}

template <typename V, typename Kv>
void StoreValueRow(const float* value, int head_dim, void* row) {
  auto* out = static_cast<typename Kv::Element*>(row);
  for (int d = 0; d < head_dim; d += 16) {
    Kv::Store(out + d, V::LoadN(value + d, head_dim - d < 16 ? head_dim - d : 16));
  }
}

template <typename V>
void StoreValue(KvType type, const float* value, int head_dim, void* row) {
  if (type == KvType::kF32) return StoreValueRow<V, KvF32<V>>(value, head_dim, row);
  StoreValueRow<V, KvF16<V>>(value, head_dim, row);
}

}  // namespace
}  // namespace echelon::cpu
