// Attention over one split (256 places) of a row's pages without tensor cores: for float32 caches,
// and head or page sizes that are no multiples of 8 (attention_mma.cuh has the others). One block
// for a row, a KV head and up to kHeads of the query heads that share it. A thread scores one
// place; a warp makes one head's weights; then a thread sums two dimensions over a run of places,
// runs in ascending order. The order within a split depends on the head size alone; merge.cu puts
// splits together.

#include <math.h>

#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

namespace {

constexpr int kThreads = kAttentionSplit;  // a thread a place
constexpr int kWarps = kThreads / 32;

// The query heads of one block.
struct HeadRange {
  int begin, end;
};
__device__ HeadRange HeadsOf(const AttentionParams& p, int kv_head, int pass, int per_pass) {
  const int first = (kv_head + p.kv_begin) * p.group - p.head_begin;
  const int begin = (first > 0 ? first : 0) + pass * per_pass;
  const int of_kv = first + p.group < p.heads ? first + p.group : p.heads;
  return {begin, of_kv < begin + per_pass ? of_kv : begin + per_pass};
}

// Places of one unit, within its split, and the pages they are in.
struct Places {
  const int32_t* pages;  // of the row's sequence
  int base;              // place of the split's first position
  int begin, end;        // of the places seen, from base
  int kv_head;
};

// Element of a head's part of a page; value: of a value, else of a key.
template <KvType kType>
__device__ float Element(const CacheView& cache, const char* head, bool value, int slot, int d) {
  const int64_t index = value ? cache.ValueIndex(slot, d) : cache.KeyIndex(slot, d);
  if constexpr (kType == KvType::kF32) return reinterpret_cast<const float*>(head)[index];
  if constexpr (kType == KvType::kF16) {
    return HalfBitsToFloat(reinterpret_cast<const uint16_t*>(head)[index]);
  }
  const uint16_t scale =
      *reinterpret_cast<const uint16_t*>(head + cache.ScaleOffset(value, slot, d / kKvBlock));
  return HalfBitsToFloat(scale) * static_cast<float>(static_cast<int8_t>(head[index]));
}

// This thread's place: scores of all heads, dimensions in ascending order.
template <KvType kType, int kHeads>
__device__ void Score(const AttentionParams& p, const Places& places, const float* queries,
                      float* scores) {
  const int j = static_cast<int>(threadIdx.x), dim = p.head_dim;
  const bool seen = j >= places.begin && j < places.end;
  float sums[kHeads] = {};
  if (seen) {
    const int place = places.base + j, tokens = p.cache.page_tokens;
    const char* head = p.cache.Head(places.pages[place / tokens], places.kv_head);
    for (int d = 0; d < dim; ++d) {
      const float k = Element<kType>(p.cache, head, false, place % tokens, d);
#pragma unroll
      for (int m = 0; m < kHeads; ++m) sums[m] = fmaf(queries[m * dim + d], k, sums[m]);
    }
  }
#pragma unroll
  for (int m = 0; m < kHeads; ++m) {
    scores[m * kAttentionSplit + j] = seen ? p.scale * sums[m] : -INFINITY;
  }
}

// Scores of head m become exp(score - best), by one warp; best and total go to the partial.
__device__ void Weigh(float* scores, int lane, float* best_and_total) {
  float best = -INFINITY;
  for (int j = lane; j < kAttentionSplit; j += 32) best = fmaxf(best, scores[j]);
  best = WarpMax(best);
  float total = 0.0f;
  for (int j = lane; j < kAttentionSplit; j += 32) {
    scores[j] = Exp(scores[j] - best);
    total += scores[j];
  }
  total = WarpSum(total);
  if (lane != 0 || best_and_total == nullptr) return;
  best_and_total[0] = best;
  best_and_total[1] = total;
}

// A run of places for two dimensions of every head; runs (runs, kHeads, D) are summed afterwards.
template <KvType kType, int kHeads>
__device__ void SumRun(const AttentionParams& p, const Places& places, const float* weights,
                       float* runs) {
  const int dim = p.head_dim, tokens = p.cache.page_tokens;
  const int pairs = dim / 2, count = kThreads / pairs;
  const int pair = static_cast<int>(threadIdx.x) % pairs;
  const int run = static_cast<int>(threadIdx.x) / pairs;
  if (run >= count) return;
  const int length = (kAttentionSplit + count - 1) / count;
  const int begin = run * length > places.begin ? run * length : places.begin;
  const int end = (run + 1) * length < places.end ? (run + 1) * length : places.end;
  float first[kHeads] = {}, second[kHeads] = {};
  for (int j = begin; j < end;) {
    const int place = places.base + j;
    const char* head = p.cache.Head(places.pages[place / tokens], places.kv_head);
    int slot = place % tokens;
    const int stop = j + tokens - slot < end ? j + tokens - slot : end;
#pragma unroll 4
    for (; j < stop; ++j, ++slot) {
      const float v0 = Element<kType>(p.cache, head, true, slot, 2 * pair);
      const float v1 = Element<kType>(p.cache, head, true, slot, 2 * pair + 1);
#pragma unroll
      for (int m = 0; m < kHeads; ++m) {
        const float w = weights[m * kAttentionSplit + j];
        first[m] = fmaf(w, v0, first[m]);
        second[m] = fmaf(w, v1, second[m]);
      }
    }
  }
  for (int m = 0; m < kHeads; ++m) {
    float* to = runs + (run * kHeads + m) * dim + 2 * pair;
    to[0] = first[m];
    to[1] = second[m];
  }
}

// A unit has one row.
template <KvType kType, int kHeads>
__global__ void __launch_bounds__(kThreads) ScalarSplitKernel(AttentionParams p) {
  const AttentionUnit unit = p.units[blockIdx.x];
  if (unit.row < 0) return;  // the whole block: it fills up
  const int kv_head = static_cast<int>(blockIdx.y), dim = p.head_dim;
  const HeadRange heads = HeadsOf(p, kv_head, static_cast<int>(blockIdx.z), kHeads);
  if (heads.begin >= heads.end) return;                       // the whole block
  auto* queries = reinterpret_cast<float*>(DynamicShared());  // (kHeads, D)
  float* scores = queries + kHeads * dim;                     // (kHeads, 256)
  float* runs = scores + kHeads * kAttentionSplit;            // (runs, kHeads, D)

  const float* q = p.q.data + unit.row * p.q.stride;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * dim; i += kThreads) {
    const int h = heads.begin + i / dim;
    queries[i] = h < heads.end ? q[int64_t{h} * dim + i % dim] : 0.0f;
  }
  __syncthreads();
  const int split = unit.first / kAttentionSplit, base = split * kAttentionSplit;
  const Places places = {p.batch.pages + p.batch.page_begin[p.batch.sequences[unit.row]], base,
                         unit.first - base, unit.end - base, kv_head};
  Score<kType, kHeads>(p, places, queries, scores);
  __syncthreads();
  const AttentionRow row = p.rows[unit.row];
  float* partials =
      p.partials.data + (row.partial + split - row.first / kAttentionSplit) * p.partials.stride;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  for (int m = warp; m < kHeads; m += kWarps) {
    const int h = heads.begin + m;
    Weigh(scores + m * kAttentionSplit, lane,
          h < heads.end ? partials + int64_t{h} * (dim + 2) + dim : nullptr);
  }
  __syncthreads();
  SumRun<kType, kHeads>(p, places, scores, runs);
  __syncthreads();
  const int count = kThreads / (dim / 2);
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * dim; i += kThreads) {
    const int h = heads.begin + i / dim;
    if (h >= heads.end) break;
    float sum = 0.0f;
    for (int run = 0; run < count; ++run) sum += runs[run * kHeads * dim + i];
    partials[int64_t{h} * (dim + 2) + i % dim] = sum;
  }
}

template <KvType kType, int kHeads>
void LaunchHeads(Stream stream, const AttentionParams& p) {
  const Grid grid = {static_cast<unsigned>(p.unit_count), static_cast<unsigned>(p.cache.kv_heads),
                     static_cast<unsigned>((p.group + kHeads - 1) / kHeads)};
  // At most 256 dimensions: queries 8 KiB, scores 8 KiB, runs (512 floats a head) 16 KiB.
  const size_t floats =
      size_t{kHeads} * (p.head_dim + kAttentionSplit + kThreads / (p.head_dim / 2) * p.head_dim);
  Launch(stream, grid, kThreads, floats * sizeof(float), ScalarSplitKernel<kType, kHeads>, p);
}

template <KvType kType>
void LaunchScalar(Stream stream, const AttentionParams& p) {
  if (p.group <= 2) return LaunchHeads<kType, 2>(stream, p);
  LaunchHeads<kType, 8>(stream, p);
}

}  // namespace

void LaunchAttendSplits(Stream stream, const AttentionParams& params) {
  if (params.unit_count == 0) return;
  const bool tensor_cores = params.cache.on_tensor_cores();
  switch (params.cache.type) {
    case KvType::kF32:
      return LaunchScalar<KvType::kF32>(stream, params);
    case KvType::kF16:
      if (tensor_cores) return LaunchMmaSplitsF16(stream, params);
      return LaunchScalar<KvType::kF16>(stream, params);
    case KvType::kQ8_0:
      if (tensor_cores) return LaunchMmaSplitsQ8(stream, params);
      return LaunchScalar<KvType::kQ8_0>(stream, params);
  }
}

void LaunchAttendWhole(Stream stream, const AttentionParams& params) {
  if (params.unit_count == 0) return;
  if (params.cache.type == KvType::kF16) return LaunchMmaWholeF16(stream, params);
  LaunchMmaWholeQ8(stream, params);
}

int TokensOfSplitUnit(const CacheView& cache, int group) {
  return cache.on_tensor_cores() && group < kAttentionTile ? kAttentionTile / group : 1;
}

int TokensOfWholeUnit(const CacheView& cache, int group) {
  if (!cache.on_tensor_cores()) return 0;
  const int heads = group < kAttentionTile ? group : kAttentionTile;
  return WholeWarps(cache.head_dim) * kAttentionTile / heads;
}

}  // namespace echelon::cuda
