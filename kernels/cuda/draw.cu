// Draws tokens: greedy, or Gumbel-max with the noise of worker/gumbel.h, over slices of the
// vocabulary side by side. Small kernels: what log-probabilities are made of (draw_scores.cu); the
// logits that biases and penalties change; the greatest logit of each slice; where a row has top_k
// or top_p, a round of the search for their thresholds each (draw_search.cuh); with the row's
// maximum known, the best draw of each slice; the best of the slices. A maximum with ties to the
// lower id is the same in any order, so are sums of integers, and each score is the host's in every
// bit.
//
// Over several ranks each kernel works on the slices of its rank's part of the vocabulary, and what
// it found is gathered before the next one needs it, so that all ranks end with the same tokens. Of
// a vocabulary of 131,072 over 2 ranks that are 16 slices a rank: 256 bytes a row and gather, two
// of these for a draw, one for a greedy row, 2 KiB for each round of a search (four for top_k, four
// for top_p), 2.6 KiB for scores. The logits themselves would be 256 KiB a row, and each rank would
// read the whole vocabulary.

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
    const int64_t column = to.id - p.first;
    p.raw[at] = {-1, 0.0f};
    if (column < 0 || column >= p.logits.cols) return;
    p.raw[at] = {to.id, logits[column]};
    logits[column] = Changed(logits[column], to, want.penalties);
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
    p.raw[last] = {-1, 0.0f};
  } else {
    change(last, {drawn, named.generated, named.bias});
  }
}

// Writes a slice's best token, which stands in `column`; id kNone: there is none, and the column is
// the slice's first. (Its raw logit is read of slices that were made behind the changes alone.)
__device__ void PutSlice(const DrawParams& p, const DrawRow& want, const BlockSlice& slice,
                         DrawSlice* slices, double score, int32_t id, int64_t column, float* raw) {
  if (threadIdx.x == 0) *raw = slice.begin < slice.end ? slice.logits[column] : 0.0f;
  __syncthreads();
  for (int32_t at = want.changes_begin + static_cast<int32_t>(threadIdx.x); at < want.changes_end;
       at += kDrawThreads) {
    if (p.raw[at].id == p.first + column) *raw = p.raw[at].logit;
  }
  __syncthreads();
  if (threadIdx.x == 0) slices[slice.at] = {score, id, *raw};
}

__global__ void __launch_bounds__(kDrawThreads) SliceMaxKernel(DrawParams p) {
  __shared__ Candidate<float> all[kDrawThreads];
  __shared__ float raw;
  const DrawRow want = p.rows[blockIdx.x];
  const BlockSlice slice(p, want);
  for (int64_t i = blockIdx.y * kDrawThreads + threadIdx.x;
       p.sums != nullptr && i < 2 * kSearchRounds * kDigits; i += p.slice_count * kDrawThreads) {
    const auto of = static_cast<int>(i / kDigits);
    SumsOf(p, of / kSearchRounds, of % kSearchRounds, p.rank)[i % kDigits] = 0;
  }
  Candidate<float> best = {-INFINITY, kNone};
  for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kDrawThreads) {
    best = Greater(best, slice.logits[i], static_cast<int32_t>(p.first + i));
  }
  best = BlockBest(best, all);
  const int64_t column = best.id == kNone ? slice.begin : best.id - p.first;
  PutSlice(p, want, slice, p.maxima, best.value, best.id, column, &raw);
}

// A slice's sums by digit in words of 32 bits: shared memory adds to those at once, to wider ones
// by trying until no other thread came between. Of a mass of at most 2^39 the low 20 bits and what
// is above them are added apart: of 4,096 logits at most 2^12 * (2^20 - 1) < 2^32 and 2^12 * 2^19 =
// 2^31. Put together at the end they are the sum, to the bit.
struct SliceSums {
  static constexpr int kLowBits = 20;
  static_assert(kDrawSlice * ((int64_t{1} << kLowBits) - 1) < int64_t{1} << 32 &&
                kDrawSlice << (kMassBits - kLowBits) < int64_t{1} << 32);
  uint32_t low[kDigits], high[kDigits];

  __device__ void Add(uint32_t digit, uint64_t weight) {
    const auto below = static_cast<uint32_t>(weight) & ((1u << kLowBits) - 1);
    const auto above = static_cast<uint32_t>(weight >> kLowBits);
    if (below > 0) AtomicAdd(&low[digit], below);
    if (above > 0) AtomicAdd(&high[digit], above);
  }
  __device__ uint64_t Of(int digit) const {
    return (uint64_t{high[digit]} << kLowBits) + low[digit];
  }
};

// The sums of one round of a search over the block's slice, added to the row's.
__global__ void __launch_bounds__(kDrawThreads) SearchKernel(DrawParams p, int search, int round) {
  __shared__ Candidate<double> maxima[kDrawThreads];
  __shared__ SliceSums sums;
  __shared__ uint64_t scratch[kDrawThreads];
  const DrawRow want = p.rows[blockIdx.x];
  if (!Searches(want, search)) return;  // the whole block
  const double max = RowBest(p, p.maxima, maxima).value;
  const uint32_t key_min =
      search == kTopP && Searches(want, kTopK) ? KeyMin(p, want, kTopK, scratch) : 0;
  const DrawSearch::Found found = FoundBefore(p, want, search, round, scratch);
  const auto i = static_cast<int>(threadIdx.x);
  if (blockIdx.y == 0 && i == 0 && round > 0) p.searches[blockIdx.x].before[search][round] = found;
  sums.low[i] = sums.high[i] = 0;
  __syncthreads();
  const BlockSlice slice(p, want);
  const int shift = 32 - kDigitBits * (round + 1);
  for (int64_t at = slice.begin + i; at < slice.end; at += kDrawThreads) {
    const float logit = slice.logits[at];
    const uint32_t key = OrderKey(logit);
    if (key < key_min) continue;
    if (round > 0 && key >> (shift + kDigitBits) != found.prefix) continue;
    const uint64_t weight =
        search == kTopK ? 1 : MassOf((static_cast<double>(logit) - max) * want.inverse_temperature);
    sums.Add(key >> shift & (kDigits - 1), weight);
  }
  __syncthreads();
  if (const uint64_t sum = sums.Of(i); sum > 0) {
    AtomicAdd(&SumsOf(p, search, round, p.rank)[i], sum);
  }
}

// The score of token `id`, where it may be drawn and may reach `best`.
__device__ Candidate<double> Draw(const DrawRow& want, double max, uint32_t key_min, float logit,
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
  __shared__ Candidate<double> all[kDrawThreads];
  __shared__ uint64_t scratch[kDrawThreads];
  __shared__ float raw;
  const DrawRow want = p.rows[blockIdx.x];
  const BlockSlice slice(p, want);
  if (want.known >= 0) {
    const int64_t column = want.known - p.first;
    const bool here = slice.begin <= column && column < slice.end;
    return PutSlice(p, want, slice, p.draws, 0.0, here ? want.known : kNone,
                    here ? column : slice.begin, &raw);
  }
  if (want.inverse_temperature == 0.0) return;  // the whole block
  const Candidate<double> most = RowBest(p, p.maxima, all);
  uint32_t key_min = 0;
  for (const int search : {kTopK, kTopP}) {
    if (!Searches(want, search)) continue;
    const uint32_t of_search = KeyMin(p, want, search, scratch);
    key_min = of_search > key_min ? of_search : key_min;
  }
  // The most likely token first, in every slice: it sets a score that most others cannot reach.
  Candidate<double> best = {-INFINITY, kNone};
  if (most.id != kNone) {
    best = Draw(want, most.value, key_min, static_cast<float>(most.value), most.id, best);
  }
  for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kDrawThreads) {
    best =
        Draw(want, most.value, key_min, slice.logits[i], static_cast<int32_t>(p.first + i), best);
  }
  best = BlockBest(best, all);
  int64_t column = best.id - p.first;
  if (best.id == kNone || column < slice.begin || column >= slice.end) {
    best.id = kNone;
    column = slice.begin;
  }
  PutSlice(p, want, slice, p.draws, best.value, best.id, column, &raw);
}

// The known token, or the best draw; where nothing can be drawn the argmax stays, and where no
// logit is a number the first token.
__global__ void __launch_bounds__(kDrawThreads) SettleKernel(DrawParams p) {
  __shared__ Candidate<double> all[kDrawThreads];
  const DrawRow want = p.rows[blockIdx.x];
  const Candidate<double> most = RowBest(p, p.maxima, all);
  Candidate<double> drawn = {-INFINITY, kNone};
  if (want.inverse_temperature != 0.0 || want.known >= 0) drawn = RowBest(p, p.draws, all);
  const bool any = drawn.id != kNone;
  const int32_t id = any ? drawn.id : most.id;
  DrawnToken& to = p.drawn[blockIdx.x];
  if (id == kNone && threadIdx.x == 0) to = {0, p.maxima[blockIdx.x * p.slice_count].raw};
  ForSlices(p, any ? p.draws : p.maxima, [&](const DrawSlice& slice) {
    if (id != kNone && slice.id == id) to = {id, slice.raw};
  });
}

}  // namespace

void LaunchDraw(Stream stream, const DrawParams& params, bool launch, const DrawGather& gather) {
  const Grid rows = {static_cast<unsigned>(params.count)};
  const Grid slices = {rows.x, static_cast<unsigned>(params.slice_count)};
  const auto run = [&](Grid grid, auto kernel, const auto&... args) {
    if (launch) Launch(stream, grid, kDrawThreads, 0, kernel, args...);
  };
  const auto share = [&](auto* all, int64_t of_row) {
    if (gather) gather(all, static_cast<size_t>(params.count * of_row) * sizeof(*all));
  };
  const auto find_maxima = [&] {
    run(slices, SliceMaxKernel, params);
    share(params.maxima, params.slice_count);
  };
  if (params.scores != nullptr) {
    find_maxima();
    if (launch) LaunchSliceScores(stream, params);
    share(params.slice_scores, params.slice_count);
    if (launch) LaunchRowScores(stream, params);
  }
  if (params.changes != nullptr) run(rows, ChangeKernel, params);
  if (params.changes != nullptr || params.scores == nullptr) find_maxima();
  for (const int search : {kTopK, kTopP}) {
    for (int round = 0; params.searches_by[search] && round < kSearchRounds; ++round) {
      run(slices, SearchKernel, params, search, round);
      const int64_t of_round = (search * kSearchRounds + round) * params.ranks * params.count;
      share(params.sums + of_round * kDigits, kDigits);
    }
  }
  if (params.draws != nullptr) {
    run(slices, SliceDrawKernel, params);
    share(params.draws, params.slice_count);
  }
  run(rows, SettleKernel, params);
}

}  // namespace echelon::cuda
