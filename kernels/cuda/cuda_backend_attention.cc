// The second half of CudaBackend: the ops of attention, and where a batch's arrays are placed.

#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/shape_check.h"

namespace echelon::cuda {

namespace {

// Partial results of attention at once: 4,096 splits of 32 heads of 128 dimensions.
constexpr int64_t kPartialBytes = int64_t{64} << 20;

template <typename T>
bool SameSpan(std::span<const T> a, std::span<const T> b) {
  return a.data() == b.data() && a.size() == b.size();
}
bool SameRows(const BatchRows& a, const BatchRows& b) {
  return SameSpan(a.positions, b.positions) && SameSpan(a.sequences, b.sequences) &&
         SameSpan(a.page_begin, b.page_begin) && SameSpan(a.pages, b.pages);
}

}  // namespace

void CudaBackend::RopeAppend(const QkvArgs& args) {
  split_of_ = {};
  CheckRopeAppend(args);
  RopeParams params;
  params.qkv = args.qkv;
  params.heads = args.heads;
  params.kv_heads = args.kv_heads;
  params.head_dim = args.head_dim;
  params.query_norm = args.query_norm;
  params.key_norm = args.key_norm;
  params.norm_eps = args.norm_eps;
  params.inverse_frequency = PlaceFrequencies(args.rope.inverse_frequency);
  params.interleaved = args.rope.interleaved;
  params.batch = Place(args.rows);
  params.cache = ViewOf(*args.cache, args.layer);
  if (recorder_.Enqueue(Op::kRopeAppend, params.qkv, params.heads, params.kv_heads, params.head_dim,
                        params.query_norm, params.key_norm, params.norm_eps,
                        params.inverse_frequency, params.interleaved, params.batch, params.cache)) {
    LaunchRopeAppend(device_->stream(), params);
  }
}

AttentionLimits CudaBackend::LimitsOf(const AttentionArgs& args, const CacheView& cache) const {
  const int64_t bytes = int64_t{args.heads} * (args.head_dim + 2) * int64_t{sizeof(float)};
  AttentionLimits limits;
  limits.split_tokens = TokensOfSplitUnit(cache, args.group);
  limits.partial_rows_max = std::max<int64_t>(1, kPartialBytes / bytes);
  // Steps that repeat have one kind of units, so that few sizes are theirs. From half the
  // multiprocessors on a unit of all splits is quicker: its partial results stay where they are.
  if (args.q.rows > kRepeatRowsMax) limits.whole_tokens = TokensOfWholeUnit(cache, args.group);
  limits.whole_units_min =
      std::max(1, device_->info().multiprocessors / 2 / std::max(1, cache.kv_heads));
  return limits;
}

void CudaBackend::Attention(const AttentionArgs& args) {
  split_of_ = {};
  CheckAttention(args);
  if (args.heads == 0 || args.q.rows == 0) return;
  AttentionParams params = {};
  params.q = args.q;
  params.heads = args.heads;
  params.head_dim = args.head_dim;
  params.head_begin = args.head_begin;
  params.group = args.group;
  params.kv_begin = args.kv_begin;
  params.scale = args.scale;
  params.cache = ViewOf(*args.cache, args.layer);
  const PlacedPlan& plan = PlaceAttention(args, LimitsOf(args, params.cache));
  params.rows = plan.row_places;
  params.batch = Place(args.rows);
  MergeParams merge = {};
  merge.heads = args.heads;
  merge.head_dim = args.head_dim;
  if (args.begin.empty()) {
    merge.out = args.out;
    // Whole units store floats alone.
    if (args.head_dim % kGroup == 0 && plan.whole_count == 0) merge.split = SplitOf(args.out);
  } else {
    merge.states = args.partials;
  }
  if (plan.whole_count > 0) {
    CHECK(!recorder_.recording());
    params.out = merge.out;
    params.states = merge.states;
    params.units = plan.whole;
    params.unit_count = plan.whole_count;
    if (!device_->failure()) LaunchAttendWhole(device_->stream(), params);
  }
  for (const PlacedPass& pass : plan.passes) {
    params.partials = merge.partials =
        Partials(pass.partial_rows, int64_t{args.heads} * (args.head_dim + 2));
    params.units = pass.units;
    params.unit_count = pass.unit_count;
    merge.begin = pass.merge_begin;
    merge.row_of = pass.row_of;
    merge.continued = pass.continued;
    merge.rows = pass.rows;
    if (recorder_.Enqueue(Op::kAttention, params.q, params.heads, params.head_dim,
                          params.head_begin, params.group, params.kv_begin, params.scale,
                          params.rows, params.units, params.unit_count, params.batch, params.cache,
                          params.partials, merge.begin, merge.row_of, merge.continued, merge.rows,
                          merge.out, merge.states, merge.split.pairs)) {
      LaunchAttendSplits(device_->stream(), params);
      LaunchMerge(device_->stream(), merge);
    }
  }
}

void CudaBackend::MergeAttention(const MergeArgs& args) {
  split_of_ = {};
  CheckMerge(args);
  CHECK(args.head_dim <= kHeadDimMax);
  MergeParams params = {};
  params.partials = args.partials;
  params.begin = staging_.Put(args.begin);
  params.list = staging_.Put(args.parts);
  params.rows = args.out.rows;
  params.heads = args.heads;
  params.head_dim = args.head_dim;
  params.out = args.out;
  if (recorder_.Enqueue(Op::kMerge, params.partials, params.begin, params.list, params.heads,
                        params.head_dim, params.out)) {
    LaunchMerge(device_->stream(), params);
  }
}

BatchView CudaBackend::Place(const BatchRows& rows) {
  for (const PlacedBatch& batch : batches_) {
    if (SameRows(batch.rows, rows)) return batch.view;
  }
  const BatchView view = {staging_.Put(rows.positions), staging_.Put(rows.sequences),
                          staging_.Put(rows.page_begin), staging_.Put(rows.pages)};
  batches_.push_back({rows, view});
  return view;
}

const double* CudaBackend::PlaceFrequencies(std::span<const double> frequencies) {
  for (const auto& [values, memory] : frequencies_) {
    if (std::ranges::equal(values, frequencies)) {
      return reinterpret_cast<const double*>(memory.data());
    }
  }
  auto memory = device_->Allocate(frequencies.size_bytes(), "a rope table");
  if (!memory.ok()) {
    device_->Fail(memory.error());
    return nullptr;
  }
  device_->CopyIn(memory->data(), frequencies.data(), frequencies.size_bytes());
  frequencies_.emplace_back(std::vector(frequencies.begin(), frequencies.end()),
                            std::move(memory).value());
  return reinterpret_cast<const double*>(frequencies_.back().second.data());
}

const CudaBackend::PlacedPlan& CudaBackend::PlaceAttention(const AttentionArgs& args,
                                                           const AttentionLimits& limits) {
  for (const PlacedPlan& plan : plans_) {
    if (SameRows(plan.rows, args.rows) && SameSpan(plan.begin, args.begin) &&
        SameSpan(plan.end, args.end) && plan.window == args.window && plan.limits == limits) {
      return plan;
    }
  }
  const auto put = [&]<typename T>(const std::vector<T>& values) {
    return staging_.Put(std::span<const T>(values));
  };
  AttentionPlan plan = PlanAttention(args, limits);
  PlacedPlan placed = {args.rows, args.begin, args.end, args.window, limits,
                       nullptr,   nullptr,    0,        {}};
  placed.row_places = put(plan.rows);
  placed.whole = put(plan.whole);
  placed.whole_count = static_cast<int64_t>(plan.whole.size());
  for (AttentionPass& pass : plan.passes) {
    if (recorder_.recording()) pass.FillUp(args.q.rows, limits.partial_rows_max);
    placed.passes.push_back({static_cast<int64_t>(pass.units.size()), pass.partial_rows,
                             static_cast<int64_t>(pass.row_of.size()), put(pass.units),
                             put(pass.merge_begin), put(pass.row_of),
                             args.begin.empty() ? nullptr : put(pass.continued)});
  }
  plans_.push_back(std::move(placed));
  return plans_.back();
}

// Rows as split numbers, of a product and of the gates before it; partial results. What each of
// these was outgrown from stays (Device::Reserve): as much again at most.
uint64_t CudaBackend::ScratchBytes(int64_t rows, int64_t cols) const {
  const SplitRows split = {nullptr, nullptr, rows, (cols + kGroup - 1) / kGroup};
  return 2 * (2 * static_cast<uint64_t>(split.Bytes()) + static_cast<uint64_t>(kPartialBytes));
}

Tensor CudaBackend::Partials(int64_t rows, int64_t cols) {
  const size_t bytes = static_cast<size_t>(rows * cols) * sizeof(float);
  if (!device_->Reserve(bytes, "partial results of attention", partials_)) {
    return {nullptr, rows, cols};
  }
  return Tensor(reinterpret_cast<float*>(partials_.data()), rows, cols);
}

}  // namespace echelon::cuda
