// What log-probabilities are made of (worker/logprobs.h), of raw logits: the sum of a row's masses,
// integers in any order, and its greatest logits. First of each slice of the vocabulary, then of
// the slices, all ranks' of them. The greatest are taken one after the other, each the greatest
// behind the one before:
// at most kDrawnBestMax + 1 passes over what lies in the first-level cache.

#include "kernels/cuda/draw_search.cuh"
#include "kernels/exact_math.h"

namespace echelon::cuda {

namespace {

// The sum over the block, in thread 0.
__device__ uint64_t BlockSum(uint64_t mine, uint64_t* all) {
  const int i = static_cast<int>(threadIdx.x);
  all[i] = mine;
  __syncthreads();
  for (int half = kDrawThreads / 2; half > 0; half /= 2) {
    if (i < half) all[i] += all[i + half];
    __syncthreads();
  }
  return all[0];
}

// Writes the `count` first of the candidates at(begin), ..., at(end - 1), best first.
template <typename At>
__device__ void TakeBest(int count, int64_t begin, int64_t end, At at, Candidate<float>* all,
                         DrawnToken* out) {
  Candidate<float> last = {INFINITY, -1};  // before every token
  for (int k = 0; k < count; ++k) {
    Candidate<float> best = {-INFINITY, kNone};
    for (int64_t i = begin + threadIdx.x; i < end; i += kDrawThreads) {
      const Candidate<float> it = at(i);
      if (last.Beats(it) && it.Beats(best)) best = it;
    }
    last = BlockBest(best, all);
    if (threadIdx.x == 0) out[k] = {last.id == kNone ? -1 : last.id, last.value};
  }
}

__global__ void __launch_bounds__(kDrawThreads) SliceScoreKernel(DrawParams p) {
  __shared__ Candidate<double> maxima[kDrawThreads];
  __shared__ Candidate<float> all[kDrawThreads];
  __shared__ uint64_t sums[kDrawThreads];
  const DrawRow want = p.rows[blockIdx.x];
  if (want.best < 0) return;  // the whole block
  const double max = RowBest(p, p.maxima, maxima).value;
  const BlockSlice slice(p, want);
  uint64_t mass = 0;
  for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kDrawThreads) {
    mass += MassOf(static_cast<double>(slice.logits[i]) - max);
  }
  mass = BlockSum(mass, sums);
  ScoreSlice& scores = p.slice_scores[slice.at];
  if (threadIdx.x == 0) scores.mass = mass;
  const auto at = [&](int64_t i) {
    const float logit = slice.logits[i];
    return Candidate<float>{logit == logit ? logit : -INFINITY, static_cast<int32_t>(p.first + i)};
  };
  TakeBest(want.best, slice.begin, slice.end, at, all, scores.best);
}

__global__ void __launch_bounds__(kDrawThreads) RowScoreKernel(DrawParams p) {
  __shared__ Candidate<double> maxima[kDrawThreads];
  __shared__ Candidate<float> all[kDrawThreads];
  __shared__ uint64_t sums[kDrawThreads];
  const DrawRow want = p.rows[blockIdx.x];
  if (want.best < 0) return;  // the whole block
  DrawnScores& scores = p.scores[blockIdx.x];
  const double max = RowBest(p, p.maxima, maxima).value;
  uint64_t mass = 0;
  ForSlices(p, p.slice_scores, [&](const ScoreSlice& slice) { mass += slice.mass; });
  mass = BlockSum(mass, sums);
  if (threadIdx.x == 0) {
    scores.max = static_cast<float>(max);
    scores.mass = mass;
  }
  const auto at = [&](int64_t i) {
    const int64_t s = i / want.best, rank = s / p.slice_count;
    const int64_t place = (rank * p.count + blockIdx.x) * p.slice_count + s % p.slice_count;
    const DrawnToken of = p.slice_scores[place].best[i % want.best];
    return Candidate<float>{of.logit, of.id < 0 ? kNone : of.id};
  };
  TakeBest(want.best, 0, p.ranks * p.slice_count * want.best, at, all, scores.best);
}

}  // namespace

void LaunchSliceScores(Stream stream, const DrawParams& params) {
  const Grid slices = {static_cast<unsigned>(params.count),
                       static_cast<unsigned>(params.slice_count)};
  Launch(stream, slices, kDrawThreads, 0, SliceScoreKernel, params);
}

void LaunchRowScores(Stream stream, const DrawParams& params) {
  Launch(stream, {static_cast<unsigned>(params.count)}, kDrawThreads, 0, RowScoreKernel, params);
}

}  // namespace echelon::cuda
