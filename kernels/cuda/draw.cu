// Draws tokens: greedy, or Gumbel-max with the noise of worker/gumbel.h, over slices of the
// vocabulary side by side. Small kernels: what log-probabilities are made of (draw_scores.cu); the
// logits that biases and penalties change; the greatest logit of each slice; where a row has top_k
// or top_p, a round of the search for their thresholds each (draw_search.cuh); with the row's
// maximum known, the best draw of each slice; the best of the slices. A maximum with ties to the
// lower id is the same in any order, so are sums of integers, and each score is the host's in every
// bit.

#include <math.h>

#include "kernels/cuda/draw_search.cuh"
#include "kernels/gumbel_math.h"

namespace echelon::cuda {

namespace {

// The greatest logit and its first place; NaN counts for nothing.
__device__ Candidate<float> Greater(Candidate<float> best, float logit, int32_t id) {
  const Candidate<float> it = {logit, id};
  return logit == logit && it.Beats(best) ? it : best;
}

// A row's changes in place, a block a row. `raw` keeps what was there, for what is reported.
__global__ void __launch_bounds__(kDrawThreads) ChangeKernel(DrawParams p) {
  __shared__ int32_t listed;  // the token that is named by a DrawnId stands in the list
  const DrawRow want = p.rows[blockIdx.x];
  if (want.changes_begin == want.changes_end) return;  // the whole block
  float* logits = p.logits.data + want.row * p.logits.stride;
  const auto change = [&](int32_t at, const LogitChange& to) {
    p.raw[at] = {to.id, logits[to.id]};
    logits[to.id] = Changed(logits[to.id], to, want.penalties);
  };
  const int32_t last = want.changes_end - 1;
  const LogitChange named = p.changes[last];
  const bool was_drawn = named.id < 0;
  const int32_t drawn = was_drawn ? p.drawn[DrawnId(named.id)].id : kNone;
  if (threadIdx.x == 0) listed = 0;
  __syncthreads();
  const int32_t end = was_drawn ? last : want.changes_end;
  for (int32_t at = want.changes_begin + static_cast<int32_t>(threadIdx.x); at < end;
       at += kDrawThreads) {
    LogitChange to = p.changes[at];
    if (to.id == drawn) {
      to.generated = to.generated < 0 ? 1 : to.generated + 1;
      listed = 1;
    }
    change(at, to);
  }
  __syncthreads();
  if (threadIdx.x != 0 || !was_drawn) return;
  if (listed) {
    p.raw[last] = {kNone, 0.0f};
  } else {
    change(last, {drawn, named.generated, named.bias});
  }
}

__global__ void __launch_bounds__(kDrawThreads) SliceMaxKernel(DrawParams p) {
  __shared__ Candidate<float> all[kDrawThreads];
  const float* logits = p.logits.data + p.rows[blockIdx.x].row * p.logits.stride;
  const int64_t begin = int64_t{blockIdx.y} * kDrawSlice;
  const int64_t end = begin + kDrawSlice < p.logits.cols ? begin + kDrawSlice : p.logits.cols;
  if (p.searches != nullptr) {
    auto* sums = &p.searches[blockIdx.x].sums[0][0][0];
    for (int64_t i = blockIdx.y * kDrawThreads + threadIdx.x; i < 2 * kSearchRounds * kDigits;
         i += p.slice_count * kDrawThreads) {
      sums[i] = 0;
    }
  }
  Candidate<float> best = {-INFINITY, kNone};
  for (int64_t i = begin + threadIdx.x; i < end; i += kDrawThreads) {
    best = Greater(best, logits[i], static_cast<int32_t>(i));
  }
  best = BlockBest(best, all);
  if (threadIdx.x != 0) return;
  DrawSlice& slice = p.slices[blockIdx.x * p.slice_count + blockIdx.y];
  slice.max = best.value;
  slice.at = best.id;
}

// The sums of one round of a search over the block's slice, added to the row's.
__global__ void __launch_bounds__(kDrawThreads) SearchKernel(DrawParams p, int search, int round) {
  __shared__ Candidate<float> maxima[kDrawThreads];
  __shared__ uint64_t sums[kDigits], scratch[kDrawThreads];
  const DrawRow want = p.rows[blockIdx.x];
  if (!Searches(want, search)) return;  // the whole block
  DrawSearch& of_row = p.searches[blockIdx.x];
  const double max = RowMax(p, maxima).value;
  const uint32_t key_min =
      search == kTopP && Searches(want, kTopK) ? KeyMin(want, of_row, kTopK, scratch) : 0;
  const DrawSearch::Found found = FoundBefore(want, of_row, search, round, scratch);
  const auto i = static_cast<int>(threadIdx.x);
  if (blockIdx.y == 0 && i == 0 && round > 0) of_row.before[search][round] = found;
  sums[i] = 0;
  __syncthreads();
  const float* logits = p.logits.data + want.row * p.logits.stride;
  const int64_t begin = int64_t{blockIdx.y} * kDrawSlice;
  const int64_t end = begin + kDrawSlice < p.logits.cols ? begin + kDrawSlice : p.logits.cols;
  const int shift = 32 - kDigitBits * (round + 1);
  for (int64_t at = begin + i; at < end; at += kDrawThreads) {
    const uint32_t key = OrderKey(logits[at]);
    if (key < key_min) continue;
    if (round > 0 && key >> (shift + kDigitBits) != found.prefix) continue;
    const uint64_t weight =
        search == kTopK
            ? 1
            : MassOf((static_cast<double>(logits[at]) - max) * want.inverse_temperature);
    if (weight > 0) AtomicAdd(&sums[key >> shift & (kDigits - 1)], weight);
  }
  __syncthreads();
  if (sums[i] > 0) AtomicAdd(&of_row.sums[search][round][i], sums[i]);
}

// The score of token `id`, where it may be drawn and may reach `best`.
__device__ Candidate<double> Draw(const DrawRow& want, float max, uint32_t key_min, float logit,
                                  int32_t id, Candidate<double> best) {
  if (OrderKey(logit) < key_min) return best;
  const double relative = (static_cast<double>(logit) - max) * want.inverse_temperature;
  if (!(relative >= want.log_min)) return best;
  if (best.id != kNone && relative + kGumbelMax < best.value) return best;
  const auto of = static_cast<uint32_t>(id);
  const uint32_t bits = UniformBitsFor(want.seed, 0, want.position, of / 4)[of % 4];
  if (best.id != kNone && !MayReach(best.value, relative, bits)) return best;
  const Candidate<double> drawn = {relative + GumbelOf(bits), id};
  return drawn.Beats(best) ? drawn : best;
}

__global__ void __launch_bounds__(kDrawThreads) SliceDrawKernel(DrawParams p) {
  __shared__ Candidate<float> maxima[kDrawThreads];
  __shared__ Candidate<double> all[kDrawThreads];
  __shared__ uint64_t scratch[kDrawThreads];
  const DrawRow want = p.rows[blockIdx.x];
  if (want.inverse_temperature == 0.0) return;  // the whole block
  const float* logits = p.logits.data + want.row * p.logits.stride;
  const Candidate<float> most = RowMax(p, maxima);
  uint32_t key_min = 0;
  for (const int search : {kTopK, kTopP}) {
    if (!Searches(want, search)) continue;
    const uint32_t of_search = KeyMin(want, p.searches[blockIdx.x], search, scratch);
    key_min = of_search > key_min ? of_search : key_min;
  }
  const int64_t begin = int64_t{blockIdx.y} * kDrawSlice;
  const int64_t end = begin + kDrawSlice < p.logits.cols ? begin + kDrawSlice : p.logits.cols;
  // The most likely token first, in every slice: it sets a score that most others cannot reach.
  Candidate<double> best = {-INFINITY, kNone};
  if (most.id != kNone) best = Draw(want, most.value, key_min, most.value, most.id, best);
  for (int64_t i = begin + threadIdx.x; i < end; i += kDrawThreads) {
    best = Draw(want, most.value, key_min, logits[i], static_cast<int32_t>(i), best);
  }
  best = BlockBest(best, all);
  if (threadIdx.x != 0) return;
  DrawSlice& slice = p.slices[blockIdx.x * p.slice_count + blockIdx.y];
  slice.score = best.value;
  slice.drawn = best.id;
}

// Where nothing can be drawn the argmax stays, and where no logit is a number the first token.
__global__ void __launch_bounds__(kDrawThreads) SettleKernel(DrawParams p) {
  __shared__ Candidate<float> maxima[kDrawThreads];
  __shared__ Candidate<double> all[kDrawThreads];
  __shared__ float raw;
  const DrawRow want = p.rows[blockIdx.x];
  const Candidate<float> most = RowMax(p, maxima);
  int32_t id = most.id == kNone ? 0 : most.id;
  if (want.inverse_temperature != 0.0) {
    const DrawSlice* slices = p.slices + blockIdx.x * p.slice_count;
    Candidate<double> best = {-INFINITY, kNone};
    for (int64_t s = threadIdx.x; s < p.slice_count; s += kDrawThreads) {
      const Candidate<double> it = {slices[s].score, slices[s].drawn};
      if (it.Beats(best)) best = it;
    }
    best = BlockBest(best, all);
    if (best.id != kNone) id = best.id;
  }
  if (threadIdx.x == 0) raw = p.logits.data[want.row * p.logits.stride + id];
  __syncthreads();
  for (int32_t at = want.changes_begin + static_cast<int32_t>(threadIdx.x); at < want.changes_end;
       at += kDrawThreads) {
    if (p.raw[at].id == id) raw = p.raw[at].logit;  // one at most
  }
  __syncthreads();
  if (threadIdx.x == 0) p.drawn[blockIdx.x] = {id, raw};
}

}  // namespace

void LaunchDraw(Stream stream, const DrawParams& params) {
  const auto rows = static_cast<unsigned>(params.count);
  const Grid slices = {rows, static_cast<unsigned>(params.slice_count)};
  if (params.scores != nullptr) {
    Launch(stream, slices, kDrawThreads, 0, SliceMaxKernel, params);
    LaunchDrawScores(stream, params);
  }
  if (params.changes != nullptr) Launch(stream, {rows}, kDrawThreads, 0, ChangeKernel, params);
  if (params.changes != nullptr || params.scores == nullptr) {
    Launch(stream, slices, kDrawThreads, 0, SliceMaxKernel, params);
  }
  for (const int search : {kTopK, kTopP}) {
    for (int round = 0; params.searches != nullptr && round < kSearchRounds; ++round) {
      Launch(stream, slices, kDrawThreads, 0, SearchKernel, params, search, round);
    }
  }
  Launch(stream, slices, kDrawThreads, 0, SliceDrawKernel, params);
  Launch(stream, {rows}, kDrawThreads, 0, SettleKernel, params);
}

}  // namespace echelon::cuda
