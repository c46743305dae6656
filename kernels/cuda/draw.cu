// Draws tokens: greedy, or Gumbel-max with the noise of worker/gumbel.h, over slices of the
// vocabulary side by side. Three small kernels: the greatest logit of each slice; with the row's
// maximum known, the best draw of each slice; the best of the slices. A maximum with ties to the
// lower id is the same in any order, and each score is the host's in every bit.

#include <math.h>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/gumbel_math.h"

namespace echelon::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int32_t kNone = 0x7fffffff;

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
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (i < half && all[i + half].Beats(all[i])) all[i] = all[i + half];
    __syncthreads();
  }
  const Candidate<Value> best = all[0];
  __syncthreads();  // `all` may be used again
  return best;
}

// The greatest logit and its first place; NaN counts for nothing.
__device__ Candidate<float> Greater(Candidate<float> best, float logit, int32_t id) {
  const Candidate<float> it = {logit, id};
  return logit == logit && it.Beats(best) ? it : best;
}

__device__ Candidate<float> RowMax(const DrawParams& p, Candidate<float>* all) {
  const DrawSlice* slices = p.slices + blockIdx.x * p.slice_count;
  Candidate<float> best = {-INFINITY, kNone};
  for (int64_t s = threadIdx.x; s < p.slice_count; s += kThreads) {
    const Candidate<float> it = {slices[s].max, slices[s].at};
    if (it.Beats(best)) best = it;
  }
  return BlockBest(best, all);
}

__global__ void __launch_bounds__(kThreads) SliceMaxKernel(DrawParams p) {
  __shared__ Candidate<float> all[kThreads];
  const float* logits = p.logits.data + p.rows[blockIdx.x].row * p.logits.stride;
  const int64_t begin = int64_t{blockIdx.y} * kDrawSlice;
  const int64_t end = begin + kDrawSlice < p.logits.cols ? begin + kDrawSlice : p.logits.cols;
  Candidate<float> best = {-INFINITY, kNone};
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    best = Greater(best, logits[i], static_cast<int32_t>(i));
  }
  best = BlockBest(best, all);
  if (threadIdx.x != 0) return;
  DrawSlice& slice = p.slices[blockIdx.x * p.slice_count + blockIdx.y];
  slice.max = best.value;
  slice.at = best.id;
}

// The score of token `id`, where it may be drawn and may reach `best`.
__device__ Candidate<double> Draw(const DrawRow& want, float max, float logit, int32_t id,
                                  Candidate<double> best) {
  const double relative = (static_cast<double>(logit) - max) * want.inverse_temperature;
  if (!(relative >= want.log_min)) return best;
  if (best.id != kNone && relative + kGumbelMax < best.value) return best;
  const auto of = static_cast<uint32_t>(id);
  const uint32_t bits = UniformBitsFor(want.seed, 0, want.position, of / 4)[of % 4];
  if (best.id != kNone && !MayReach(best.value, relative, bits)) return best;
  const Candidate<double> drawn = {relative + GumbelOf(bits), id};
  return drawn.Beats(best) ? drawn : best;
}

__global__ void __launch_bounds__(kThreads) SliceDrawKernel(DrawParams p) {
  __shared__ Candidate<float> maxima[kThreads];
  __shared__ Candidate<double> all[kThreads];
  const DrawRow want = p.rows[blockIdx.x];
  if (want.inverse_temperature == 0.0) return;  // the whole block
  const float* logits = p.logits.data + want.row * p.logits.stride;
  const Candidate<float> most = RowMax(p, maxima);
  const int64_t begin = int64_t{blockIdx.y} * kDrawSlice;
  const int64_t end = begin + kDrawSlice < p.logits.cols ? begin + kDrawSlice : p.logits.cols;
  // The most likely token first, in every slice: it sets a score that most others cannot reach.
  Candidate<double> best = {-INFINITY, kNone};
  if (most.id != kNone) best = Draw(want, most.value, most.value, most.id, best);
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    best = Draw(want, most.value, logits[i], static_cast<int32_t>(i), best);
  }
  best = BlockBest(best, all);
  if (threadIdx.x != 0) return;
  DrawSlice& slice = p.slices[blockIdx.x * p.slice_count + blockIdx.y];
  slice.score = best.value;
  slice.drawn = best.id;
}

// Where nothing can be drawn the argmax stays, and where no logit is a number the first token.
__global__ void __launch_bounds__(kThreads) SettleKernel(DrawParams p) {
  __shared__ Candidate<float> maxima[kThreads];
  __shared__ Candidate<double> all[kThreads];
  const DrawRow want = p.rows[blockIdx.x];
  const Candidate<float> most = RowMax(p, maxima);
  int32_t id = most.id == kNone ? 0 : most.id;
  if (want.inverse_temperature != 0.0) {
    const DrawSlice* slices = p.slices + blockIdx.x * p.slice_count;
    Candidate<double> best = {-INFINITY, kNone};
    for (int64_t s = threadIdx.x; s < p.slice_count; s += kThreads) {
      const Candidate<double> it = {slices[s].score, slices[s].drawn};
      if (it.Beats(best)) best = it;
    }
    best = BlockBest(best, all);
    if (best.id != kNone) id = best.id;
  }
  if (threadIdx.x != 0) return;
  p.drawn[blockIdx.x] = {id, p.logits.data[want.row * p.logits.stride + id]};
}

}  // namespace

void LaunchDraw(Stream stream, const DrawParams& params) {
  const auto rows = static_cast<unsigned>(params.count);
  const Grid slices = {rows, static_cast<unsigned>(params.slice_count)};
  Launch(stream, slices, kThreads, 0, SliceMaxKernel, params);
  Launch(stream, slices, kThreads, 0, SliceDrawKernel, params);
  Launch(stream, {rows}, kThreads, 0, SettleKernel, params);
}

}  // namespace echelon::cuda
