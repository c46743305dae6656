#pragma once
// What the kernels of a draw share: candidates for a maximum, and the searches for what top_k and
// top_p leave, as worker/vocab_threshold.cc has them. A round adds, by the next eight bits of the
// keys that begin with what was found before, how many logits there are or their masses; the digit
// is the greatest from which up the sums reach the target. Each block finds it for itself from the
// sums of the round before: no kernel waits for a block of its own.

#include <math.h>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

inline constexpr int kDrawThreads = 256;
inline constexpr int32_t kNone = 0x7fffffff;

// A block's slice of a row: columns [begin, end) of this rank's part, none where another's has
// more.
struct BlockSlice {
  const float* logits;
  int64_t begin, end;
  int64_t at;  // its place among all slices
  __device__ BlockSlice(const DrawParams& p, const DrawRow& want)
      : logits(p.logits.data + want.row * p.logits.stride),
        begin(int64_t{blockIdx.y} * kDrawSlice),
        end(begin + kDrawSlice < p.logits.cols ? begin + kDrawSlice : p.logits.cols),
        at((p.rank * p.count + blockIdx.x) * p.slice_count + blockIdx.y) {}
};

// Greater value first, then the lower id; kNone is below all.
template <typename Value>
struct Candidate {
  Value value;
  int32_t id;
  __device__ bool Beats(const Candidate& other) const {
    if (id == kNone || other.id == kNone) return id < other.id;
    return value != other.value ? value > other.value : id < other.id;
  }
};

// The block's best, in every thread.
template <typename Value>
__device__ Candidate<Value> BlockBest(Candidate<Value> mine, Candidate<Value>* all) {
  const int i = static_cast<int>(threadIdx.x);
  all[i] = mine;
  __syncthreads();
  for (int half = kDrawThreads / 2; half > 0; half /= 2) {
    if (i < half && all[i + half].Beats(all[i])) all[i] = all[i + half];
    __syncthreads();
  }
  const Candidate<Value> best = all[0];
  __syncthreads();  // `all` may be used again
  return best;
}

// visit(slice) for all slices of the block's row, shared out over its threads.
template <typename Slice, typename Visit>
__device__ void ForSlices(const DrawParams& p, const Slice* slices, Visit visit) {
  const int64_t all = p.ranks * p.slice_count;
  for (int64_t s = threadIdx.x; s < all; s += kDrawThreads) {
    const int64_t rank = s / p.slice_count;
    visit(slices[(rank * p.count + blockIdx.x) * p.slice_count + s % p.slice_count]);
  }
}

__device__ inline Candidate<double> RowBest(const DrawParams& p, const DrawSlice* slices,
                                            Candidate<double>* all) {
  Candidate<double> best = {-INFINITY, kNone};
  ForSlices(p, slices, [&](const DrawSlice& slice) {
    const Candidate<double> it = {slice.score, slice.id};
    if (it.Beats(best)) best = it;
  });
  return BlockBest(best, all);
}

inline constexpr int kTopK = 0, kTopP = 1;
__device__ inline bool Searches(const DrawRow& want, int search) {
  if (want.inverse_temperature == 0.0) return false;
  return search == kTopK ? want.top_k > 0 : want.top_p < 1.0f;
}

// The sums of a round, of one rank's part of a row.
__device__ inline uint64_t* SumsOf(const DrawParams& p, int search, int round, int64_t rank) {
  const int64_t of_round = search * kSearchRounds + round;
  return p.sums + ((of_round * p.ranks + rank) * p.count + blockIdx.x) * kDigits;
}

// What is known when `round` begins, in every thread. `above`: scratch of the block.
__device__ inline DrawSearch::Found FoundBefore(const DrawParams& p, const DrawRow& want,
                                                int search, int round, uint64_t* above) {
  static_assert(kDrawThreads == kDigits);
  DrawSearch::Found found;
  if (round == 0) return found;
  const int digit = static_cast<int>(threadIdx.x);
  above[digit] = 0;
  for (int rank = 0; rank < p.ranks; ++rank) {
    above[digit] += SumsOf(p, search, round - 1, rank)[digit];
  }
  __syncthreads();
  // Sums from each digit up.
  for (int distance = 1; distance < kDigits; distance *= 2) {
    const uint64_t more = digit + distance < kDigits ? above[digit + distance] : 0;
    __syncthreads();
    above[digit] += more;
    __syncthreads();
  }
  if (round > 1) {
    found = p.searches[blockIdx.x].before[search][round - 1];
  } else {
    found.target = search == kTopK ? want.top_k : ShareOf(want.top_p, above[0]);
  }
  // The sums fall: halve to the greatest digit that reaches the target.
  int best = 0;
  for (int step = kDigits / 2; step > 0; step /= 2) {
    if (above[best + step] >= found.target) best += step;
  }
  found.reached = found.reached && above[best] >= found.target;
  found.target -= best + 1 < kDigits ? above[best + 1] : 0;
  found.prefix = found.prefix << kDigitBits | static_cast<uint32_t>(best);
  __syncthreads();  // `above` may be used again
  return found;
}

// The least key that the search leaves.
__device__ inline uint32_t KeyMin(const DrawParams& p, const DrawRow& want, int search,
                                  uint64_t* scratch) {
  const DrawSearch::Found found = FoundBefore(p, want, search, kSearchRounds, scratch);
  return found.reached ? found.prefix : 0;
}

}  // namespace echelon::cuda
