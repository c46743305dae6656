// Attention over one split (256 places) of a row's pages: one block for a row, a KV head and up to
// kHeads of the query heads that share it. A thread scores one place; a warp makes one head's
// weights; then a thread sums two dimensions over a run of places, runs in ascending order. The
// order within a split depends on the head size alone; merge.cu puts splits together.

#include <math.h>

#include "kernels/cuda/cache_layout.h"
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
__device__ HeadRange HeadsOf(const SplitParams& p, int kv_head, int pass, int per_pass) {
  const int first = (kv_head + p.kv_begin) * p.group - p.head_begin;
  const int begin = (first > 0 ? first : 0) + pass * per_pass;
  const int of_kv = first + p.group < p.heads ? first + p.group : p.heads;
  return {begin, of_kv < begin + per_pass ? of_kv : begin + per_pass};
}

// Places of one unit, within its split, and the pages they are in.
struct Places {
  const int32_t* pages;  // of the row's sequence
  int64_t base;          // place of the split's first position
  int begin, end;        // of the places seen, from base
  const char* layer;     // the KV head's part of page 0
  int64_t page_bytes;
  int tokens;

  __device__ const char* Page(int64_t place) const {
    return layer + pages[place / tokens] * page_bytes;
  }
};

template <bool kHalf>
__device__ float Element(const char* head, int64_t index) {
  if constexpr (kHalf) return HalfBitsToFloat(reinterpret_cast<const uint16_t*>(head)[index]);
  return reinterpret_cast<const float*>(head)[index];
}

// scores[m] += the queries' dimensions [d, d + 16 bytes) times the key's.
template <bool kHalf, int kHeads>
__device__ void AddChunk(const char* key, const float* queries, int dim, int d, float* scores) {
  const Bytes16 bytes = Load16(key);
  constexpr int kCount = kHalf ? 8 : 4;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float k = kHalf
                        ? HalfBitsToFloat(static_cast<uint16_t>(bytes.word[i / 2] >> (i % 2 * 16)))
                        : std::bit_cast<float>(bytes.word[i % 4]);
#pragma unroll
    for (int m = 0; m < kHeads; ++m) scores[m] = fmaf(queries[m * dim + d + i], k, scores[m]);
  }
}

// This thread's place: scores of all heads, dimensions in ascending order.
template <bool kHalf, int kHeads>
__device__ void Score(const SplitParams& p, const Places& places, const float* queries,
                      float* scores) {
  const int j = static_cast<int>(threadIdx.x), dim = p.head_dim;
  float sums[kHeads] = {};
  if (j >= places.begin && j < places.end) {
    const int64_t place = places.base + j;
    const char* head = places.Page(place);
    const int slot = static_cast<int>(place % places.tokens);
    const int chunk = KeyChunk(p.cache.type, dim);
    constexpr int kBytes = kHalf ? 2 : 4;
    for (int d = 0; d < dim; d += chunk) {
      const int64_t index = KeyIndex(chunk, places.tokens, slot, d);
      if (chunk * kBytes == 16) {
        AddChunk<kHalf, kHeads>(head + index * kBytes, queries, dim, d, sums);
        continue;
      }
      for (int i = 0; i < chunk; ++i) {
        const float k = Element<kHalf>(head, index + i);
#pragma unroll
        for (int m = 0; m < kHeads; ++m) sums[m] = fmaf(queries[m * dim + d + i], k, sums[m]);
      }
    }
  }
  const bool seen = j >= places.begin && j < places.end;
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
template <bool kHalf, int kHeads>
__device__ void SumRun(const Places& places, const float* weights, int dim, float* runs) {
  const int pairs = dim / 2, count = kThreads / pairs;
  const int pair = static_cast<int>(threadIdx.x) % pairs;
  const int run = static_cast<int>(threadIdx.x) / pairs;
  if (run >= count) return;
  const int length = (kAttentionSplit + count - 1) / count;
  const int begin = run * length > places.begin ? run * length : places.begin;
  const int end = (run + 1) * length < places.end ? (run + 1) * length : places.end;
  float first[kHeads] = {}, second[kHeads] = {};
  for (int j = begin; j < end;) {
    const int64_t place = places.base + j;
    const char* head = places.Page(place);
    const int slot = static_cast<int>(place % places.tokens);
    const int left = places.tokens - slot;
    const int stop = j + left < end ? j + left : end;
    int64_t index = ValueIndex(dim, places.tokens, slot, 2 * pair);
#pragma unroll 4
    for (; j < stop; ++j, index += dim) {
      const float v0 = Element<kHalf>(head, index), v1 = Element<kHalf>(head, index + 1);
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

template <bool kHalf, int kHeads>
__global__ void __launch_bounds__(kThreads) AttendSplitKernel(SplitParams p) {
  const SplitUnit unit = p.units[blockIdx.x];
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
  Places places;
  places.pages = p.batch.pages + p.batch.page_begin[p.batch.sequences[unit.row]];
  places.base = int64_t{unit.first} / kAttentionSplit * kAttentionSplit;
  places.begin = static_cast<int>(unit.first - places.base);
  places.end = static_cast<int>(unit.end - places.base);
  places.tokens = p.cache.page_tokens;
  places.page_bytes = p.cache.page_bytes;
  places.layer = p.cache.data + kv_head * HeadBytes(p.cache.type, dim, places.tokens);
  Score<kHalf, kHeads>(p, places, queries, scores);
  __syncthreads();
  float* partials = p.partials.data + unit.partial * p.partials.stride;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  for (int m = warp; m < kHeads; m += kWarps) {
    const int h = heads.begin + m;
    Weigh(scores + m * kAttentionSplit, lane,
          h < heads.end ? partials + int64_t{h} * (dim + 2) + dim : nullptr);
  }
  __syncthreads();
  SumRun<kHalf, kHeads>(places, scores, dim, runs);
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

template <bool kHalf, int kHeads>
void LaunchHeads(Stream stream, const SplitParams& p) {
  const Grid grid = {static_cast<unsigned>(p.unit_count), static_cast<unsigned>(p.cache.kv_heads),
                     static_cast<unsigned>((p.group + kHeads - 1) / kHeads)};
  // At most 256 dimensions: queries 8 KiB, scores 8 KiB, runs (512 floats a head) 16 KiB.
  const size_t floats =
      size_t{kHeads} * (p.head_dim + kAttentionSplit + kThreads / (p.head_dim / 2) * p.head_dim);
  Launch(stream, grid, kThreads, floats * sizeof(float), AttendSplitKernel<kHalf, kHeads>, p);
}

template <bool kHalf>
void LaunchType(Stream stream, const SplitParams& p) {
  if (p.group == 1) return LaunchHeads<kHalf, 1>(stream, p);
  if (p.group == 2) return LaunchHeads<kHalf, 2>(stream, p);
  if (p.group <= 4) return LaunchHeads<kHalf, 4>(stream, p);
  LaunchHeads<kHalf, 8>(stream, p);
}

}  // namespace

void LaunchAttendSplits(Stream stream, const SplitParams& params) {
  if (params.unit_count == 0) return;
  if (params.cache.type == KvType::kF16) {
    LaunchType<true>(stream, params);
  } else {
    LaunchType<false>(stream, params);
  }
}

}  // namespace echelon::cuda
