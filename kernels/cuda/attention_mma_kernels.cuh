#pragma once
// The two kernels over attention_mma.cuh, and how they are launched: kSteps is at least the head's
// dimensions by 32.

#include "kernels/cuda/attention_mma.cuh"

namespace echelon::cuda {

// A block for a tile and a split: a warp a block of places, whose sums meet in shared memory 32
// dimensions at a time.
inline constexpr int kSplitWarps = kAttentionSplit / kAttentionBlock;
struct SplitShared {
  float best[kSplitWarps][kAttentionTile], total[kSplitWarps][kAttentionTile];
  float keep[kSplitWarps][kAttentionTile], take[kSplitWarps][kAttentionTile];
  // Rows 8 banks apart: four rows of a tile's 8 dimensions are stored side by side.
  float sums[kSplitWarps][kAttentionTile][kStepDims + 8];
  float* partial[kAttentionTile];  // of the row and head; null: none
};
static_assert(sizeof(SplitShared) <= kSharedBytesStaticMax);

// By a thread a row: the factors of its blocks, its partial's best and total.
__device__ inline void JoinBlocks(const AttentionParams& p, const AttentionUnit& unit, int r,
                                  SplitShared& shared) {
  const TileRow row = RowAt(p, unit, r);
  shared.partial[r] = nullptr;
  if (row.row < 0 || row.seen.first >= unit.end || row.seen.end <= unit.first) return;
  Running state;
  for (int block = 0; block < kSplitWarps; ++block) {
    if (shared.best[block][r] == -INFINITY) continue;
    const Factors factors = Join(state, shared.best[block][r], shared.total[block][r]);
    shared.keep[block][r] = factors.keep;
    shared.take[block][r] = factors.take;
  }
  const int partial =
      row.seen.partial + unit.first / kAttentionSplit - row.seen.first / kAttentionSplit;
  float* to = p.partials.data + partial * p.partials.stride + int64_t{row.head} * (p.head_dim + 2);
  to[p.head_dim] = state.best;
  to[p.head_dim + 1] = state.total;
  shared.partial[r] = to;
}

// Stores dimensions d, ... d + 31 of the tile's partial results.
__device__ inline void StoreSums(const SplitShared& shared, int d, int dim) {
  for (int i = static_cast<int>(threadIdx.x); i < kAttentionTile * kStepDims;
       i += kSplitWarps * 32) {
    const int r = i / kStepDims, of = i % kStepDims;
    if (shared.partial[r] == nullptr || d + of >= dim) continue;
    float sum = 0.0f;
    for (int block = 0; block < kSplitWarps; ++block) {
      if (shared.best[block][r] == -INFINITY) continue;
      sum = fmaf(sum, shared.keep[block][r], shared.sums[block][r][of] * shared.take[block][r]);
    }
    shared.partial[r][d + of] = sum;
  }
}

// The values of a step's dimensions.
struct StepValues {
  Bytes16 of[kDimTiles];
};
template <KvType kType>
__device__ StepValues LoadStep(const CacheView& cache, const BlockValues& values, int step) {
  StepValues loaded;
#pragma unroll
  for (int n = 0; n < kDimTiles; ++n) {
    loaded.of[n] = LoadValues<kType>(cache, values, step * kStepDims + n * 8);
  }
  return loaded;
}

// Dynamic shared memory of a block: the queries, then for each warp the keys of as many steps as
// fit beside the sums, of 128 dimensions all.
template <KvType kType, int kSteps>
struct SplitKeys {
  static constexpr int kQueryBytes = kSteps * kStepBytes;
  static constexpr int kFit =
      static_cast<int>(kSharedBytesMax - sizeof(SplitShared) - kQueryBytes) /
      (kSplitWarps * kAheadBytes<kType>);
  static constexpr int kAhead = kFit < kSteps ? kFit : kSteps;
  static constexpr int kWarpBytes = kAhead * kAheadBytes<kType>;
  static constexpr size_t kBytes = kQueryBytes + size_t{kSplitWarps} * kWarpBytes;
};

template <KvType kType, int kSteps>
__global__ void __launch_bounds__(kSplitWarps * 32) MmaSplitKernel(AttentionParams p) {
  using Keys = SplitKeys<kType, kSteps>;
  __shared__ SplitShared shared;
  char* queries = DynamicShared();
  const AttentionUnit unit = p.units[blockIdx.x];
  if (unit.row < 0) return;  // the whole block: it fills up
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const TilePlaces places = {p.batch.pages + p.batch.page_begin[p.batch.sequences[unit.row]],
                             unit.first, unit.end};
  const int base = unit.first / kAttentionSplit * kAttentionSplit + warp * kAttentionBlock;
  const bool seen = base < unit.end && base + kAttentionBlock > unit.first;  // by the whole warp
  // Keys and the first values are under way while the queries are made ready, values a step ahead
  // afterwards: no load goes past a barrier by itself.
  const BlockKeys keys = KeysOf<kType>(p.cache, places, base);
  char* const ahead = queries + Keys::kQueryBytes + warp * Keys::kWarpBytes;
  if (seen) BeginKeys<kType, Keys::kAhead>(p.cache, keys, ahead);
  EndCopies();
  const BlockValues values = ValuesOf(p.cache, places, base);
  StepValues next = LoadStep<kType>(p.cache, values, 0);
  TileRow rows[2] = {RowAt(p, unit, g), RowAt(p, unit, g + 8)};
  PutQueries<kType>(p, rows, warp, kSplitWarps, queries);
  __syncthreads();
  AwaitCopies<0>();
  BlockWeights block = {{}, {-INFINITY, -INFINITY}, {}};
  if (seen) block = WeightsOf<kType, kSteps, Keys::kAhead>(p, rows, keys, queries, ahead, base);
  if (t == 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      shared.best[warp][g + half * 8] = block.best[half];
      shared.total[warp][g + half * 8] = block.total[half];
    }
  }
  __syncthreads();
  if (threadIdx.x < kAttentionTile) JoinBlocks(p, unit, static_cast<int>(threadIdx.x), shared);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int d = step * kStepDims;
    if (d >= p.head_dim) break;
    const StepValues loaded = next;
    next = LoadStep<kType>(p.cache, values, step + 1);
    if (seen) {
      const WeightParts parts = SplitWeights<kType>(p.cache, block, values, step);
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
        if (d + n * 8 >= p.head_dim) break;
        float sums[4];
        SumValues<kType>(parts, values, loaded.of[n], sums);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          shared.sums[warp][g + i / 2 * 8][n * 8 + t * 2 + i % 2] = sums[i];
        }
      }
    }
    __syncthreads();
    StoreSums(shared, d, p.head_dim);
    __syncthreads();  // sums may be used again
  }
}

// What a warp's rows see, of the unit's places.
__device__ inline TilePlaces PlacesOfWarp(const AttentionParams& p, const AttentionUnit& unit,
                                          int first_row) {
  TilePlaces places = {p.batch.pages + p.batch.page_begin[p.batch.sequences[unit.row]], unit.end,
                       unit.first};
  const int members = p.group < kAttentionTile ? p.group : kAttentionTile;
  const int last = (first_row + kAttentionTile - 1) / members;
  for (int token = first_row / members; token <= last && token < unit.count; ++token) {
    const AttentionRow& row = p.rows[unit.row + token];
    places.begin = row.first < places.begin ? row.first : places.begin;
    places.end = row.end > places.end ? row.end : places.end;
  }
  return places;
}

// A warp's sums: of 8 dimensions a tile, the lane has row g (0, 1) and g + 8 (2, 3), dimensions 2 t
// and 2 t + 1.
template <int kSteps>
struct TileSums {
  float of[kSteps * kDimTiles][4];
  Running rows[2];
};

// Puts one split's result behind the state.
template <int kSteps>
__device__ void JoinSplit(const TileSums<kSteps>& split, TileSums<kSteps>& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (split.rows[half].best == -INFINITY) continue;
    const Factors factors = Join(state.rows[half], split.rows[half].best, split.rows[half].total);
#pragma unroll
    for (int n = 0; n < kSteps * kDimTiles; ++n) {
#pragma unroll
      for (int i = half * 2; i < half * 2 + 2; ++i) {
        state.of[n][i] = fmaf(state.of[n][i], factors.keep, split.of[n][i] * factors.take);
      }
    }
  }
}

// Puts one block's behind its split's.
template <KvType kType, int kSteps>
__device__ void JoinBlock(const AttentionParams& p, const TilePlaces& places, int base,
                          const BlockWeights& block, TileSums<kSteps>& split) {
  Factors factors[2] = {{1.0f, 0.0f}, {1.0f, 0.0f}};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (block.best[half] == -INFINITY) continue;
    factors[half] = Join(split.rows[half], block.best[half], block.total[half]);
  }
  const BlockValues values = ValuesOf(p.cache, places, base);
  WeightParts parts;
#pragma unroll
  for (int n = 0; n < kSteps * kDimTiles; ++n) {
    if (n * 8 >= p.head_dim) break;
    // One split of the weights serves all dimensions where these have no scales.
    if (n == 0 || (kType == KvType::kQ8_0 && n % kDimTiles == 0)) {
      parts = SplitWeights<kType>(p.cache, block, values, n / kDimTiles);
    }
    float sums[4];
    SumValues<kType>(parts, values, LoadValues<kType>(p.cache, values, n * 8), sums);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (block.best[i / 2] == -INFINITY) continue;
      split.of[n][i] = fmaf(split.of[n][i], factors[i / 2].keep, sums[i] * factors[i / 2].take);
    }
  }
}

// Element [n][i] of the lane's: 8 n + 2 t + i % 2 of row i / 2's.
__device__ inline int DimOf(int n, int i) {
  return n * 8 + static_cast<int>(threadIdx.x % 4) * 2 + i % 2;
}

template <int kSteps>
__device__ void LoadStates(const AttentionParams& p, const TileRow (&rows)[2],
                           TileSums<kSteps>& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const TileRow& row = rows[half];
    if (row.row < 0 || row.seen.continued == 0) continue;
    const float* from =
        p.states.data + row.row * p.states.stride + int64_t{row.head} * (p.head_dim + 2);
    state.rows[half] = {from[p.head_dim], from[p.head_dim + 1]};
#pragma unroll
    for (int n = 0; n < kSteps * kDimTiles; ++n) {
      if (n * 8 >= p.head_dim) break;
      for (int i = half * 2; i < half * 2 + 2; ++i) state.of[n][i] = from[DimOf(n, i)];
    }
  }
}

template <int kSteps>
__device__ void StoreRows(const AttentionParams& p, const TileRow (&rows)[2],
                          const TileSums<kSteps>& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const TileRow& row = rows[half];
    if (row.row < 0) continue;
    const bool last = p.out.data != nullptr;
    float* to =
        last ? p.out.data + row.row * p.out.stride + int64_t{row.head} * p.head_dim
             : p.states.data + row.row * p.states.stride + int64_t{row.head} * (p.head_dim + 2);
    const float total = state.rows[half].total;
#pragma unroll
    for (int n = 0; n < kSteps * kDimTiles; ++n) {
      if (n * 8 >= p.head_dim) break;
      for (int i = half * 2; i < half * 2 + 2; ++i) {
        to[DimOf(n, i)] = last ? state.of[n][i] / total : state.of[n][i];
      }
    }
    if (last || threadIdx.x % 4 != 0) continue;
    to[p.head_dim] = state.rows[half].best;
    to[p.head_dim + 1] = total;
  }
}

// A warp a tile, all its splits one after the other. The block's warps read the same pages at about
// the same time, through the first-level cache.
template <KvType kType, int kSteps, int kWarps>
__global__ void __launch_bounds__(kWarps * 32) MmaWholeKernel(AttentionParams p) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  char* queries = DynamicShared() + warp * kSteps * kStepBytes;
  const AttentionUnit unit = p.units[blockIdx.x];
  const int first_row = warp * kAttentionTile;
  TileRow rows[2] = {RowAt(p, unit, first_row + lane / 4),
                     RowAt(p, unit, first_row + lane / 4 + 8)};
  PutQueries<kType>(p, rows, 0, 1, queries);
  __syncwarp();
  const TilePlaces places = PlacesOfWarp(p, unit, first_row);
  TileSums<kSteps> state = {};
  LoadStates<kSteps>(p, rows, state);
  for (int split = unit.first / kAttentionSplit * kAttentionSplit; split < unit.end;
       split += kAttentionSplit) {
    TileSums<kSteps> of_split = {};
    for (int base = split; base < split + kAttentionSplit; base += kAttentionBlock) {
      if (base >= places.end || base + kAttentionBlock <= places.begin) continue;
      const BlockKeys keys = KeysOf<kType>(p.cache, places, base);
      const BlockWeights block = WeightsOf<kType, kSteps, 0>(p, rows, keys, queries, nullptr, base);
      JoinBlock<kType, kSteps>(p, places, base, block, of_split);
    }
    JoinSplit<kSteps>(of_split, state);
    __syncthreads();  // together, so that what one warp read is near for the others
  }
  StoreRows<kSteps>(p, rows, state);
}

inline Grid UnitGrid(const AttentionParams& p) {
  return {static_cast<unsigned>(p.unit_count), static_cast<unsigned>(p.cache.kv_heads),
          static_cast<unsigned>((p.group + kAttentionTile - 1) / kAttentionTile)};
}

template <KvType kType>
void LaunchMmaSplits(Stream stream, const AttentionParams& p) {
  const auto launch = [&]<int kSteps>() {
    Launch(stream, UnitGrid(p), kSplitWarps * 32, SplitKeys<kType, kSteps>::kBytes,
           MmaSplitKernel<kType, kSteps>, p);
  };
  if (p.head_dim <= 64) return launch.template operator()<2>();
  if (p.head_dim <= 128) return launch.template operator()<4>();
  launch.template operator()<8>();
}

template <KvType kType>
void LaunchMmaWhole(Stream stream, const AttentionParams& p) {
  const auto warps = static_cast<unsigned>(WholeWarps(p.head_dim));
  const auto launch = [&](int steps, auto* kernel) {
    Launch(stream, UnitGrid(p), warps * 32, static_cast<size_t>(steps) * kStepBytes * warps, kernel,
           p);
  };
  if (p.head_dim <= 64) return launch(2, MmaWholeKernel<kType, 2, WholeWarps(64)>);
  if (p.head_dim <= 128) return launch(4, MmaWholeKernel<kType, 4, WholeWarps(128)>);
  launch(8, MmaWholeKernel<kType, 8, WholeWarps(256)>);
}

}  // namespace echelon::cuda
