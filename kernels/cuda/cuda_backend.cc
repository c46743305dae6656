#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "common/strings.h"
#include "kernels/cuda/cache_layout.h"
#include "kernels/cuda/weight.h"
#include "kernels/shape_check.h"

namespace echelon::cuda {

namespace {

constexpr int kHeadDimMax = 256;  // a merge has a thread a dimension
// Partial results of attention at once: 4,096 splits of 32 heads of 128 dimensions.
constexpr int64_t kPartialBytes = int64_t{64} << 20;

// Begins each op's facts for the recorder.
enum class Op : uint8_t {
  kEmbed,
  kRmsNorm,
  kMatMul,
  kRopeAppend,
  kAttention,
  kMerge,
  kGated,
  kAddResidual,
  kGatherRows,
  kDraw
};

class CudaBuffer : public DeviceBuffer {
 public:
  explicit CudaBuffer(DeviceMemory memory) : memory_(std::move(memory)) {}
  void* data() override { return memory_.data(); }
  size_t bytes() const override { return memory_.bytes(); }

 private:
  DeviceMemory memory_;
};

// (layers, pages): a layer's pages lie together.
class CudaKvCache : public KvCache {
 public:
  CudaKvCache(const KvShape& shape, DeviceMemory memory)
      : shape_(shape), memory_(std::move(memory)) {}
  const KvShape& shape() const override { return shape_; }
  std::span<std::byte> PageData(int layer, int32_t page, int32_t pages) override {
    CHECK(layer >= 0 && layer < shape_.layers && page >= 0 && page + pages <= shape_.pages);
    CHECK(pages <= 1 || shape_.layers == 1);
    const CacheView view = View(layer);
    return {reinterpret_cast<std::byte*>(view.Head(page, 0)),
            static_cast<size_t>(pages * view.page_bytes)};
  }
  CacheView View(int layer) const {
    CacheView view = {nullptr,         0,          shape_.page_tokens, shape_.kv_heads,
                      shape_.head_dim, shape_.type};
    view.page_bytes = shape_.kv_heads * view.HeadBytes();
    view.data = memory_.data() + int64_t{layer} * shape_.pages * view.page_bytes;
    return view;
  }

 private:
  const KvShape shape_;
  DeviceMemory memory_;
};

template <typename T>
bool SameSpan(std::span<const T> a, std::span<const T> b) {
  return a.data() == b.data() && a.size() == b.size();
}
bool SameRows(const BatchRows& a, const BatchRows& b) {
  return SameSpan(a.positions, b.positions) && SameSpan(a.sequences, b.sequences) &&
         SameSpan(a.page_begin, b.page_begin) && SameSpan(a.pages, b.pages);
}

CacheView ViewOf(const KvCache& cache, int layer) {
  return static_cast<const CudaKvCache&>(cache).View(layer);
}

}  // namespace

CudaBackend::CudaBackend(std::unique_ptr<Device> device, int threads)
    : device_(std::move(device)),
      pool_(threads),
      staging_(*device_),
      draws_(*device_, staging_),
      recorder_(*device_) {}

CudaBackend::~CudaBackend() { device_->Wait(); }

std::string CudaBackend::Describe() const {
  const DeviceInfo& info = device_->info();
  return StrCat("cuda, ", info.name, ", compute capability ", info.major, ".", info.minor, ", ",
                HumanBytes(static_cast<double>(info.memory_bytes)), ", ", pool_.threads(),
                pool_.threads() == 1 ? " thread" : " threads", " for loading");
}

// What the tensor cores add inside one instruction is not documented and may differ between
// architectures.
std::string CudaBackend::NumericsFingerprint() const {
  return StrCat("cuda/mma-sm", device_->info().major, device_->info().minor, "/v2");
}

Result<std::unique_ptr<DeviceBuffer>> CudaBackend::Allocate(size_t bytes) {
  ASSIGN_OR_RETURN(DeviceMemory memory, device_->Allocate(bytes, "a buffer"));
  return std::unique_ptr<DeviceBuffer>(new CudaBuffer(std::move(memory)));
}

// Neither is part of a graph: a step that repeats would do it once.
void CudaBackend::Upload(const void* host, void* device, size_t bytes) {
  CHECK(!recorder_.recording());
  split_of_ = {};
  device_->CopyIn(device, host, bytes);
}
void CudaBackend::Download(const void* device, void* host, size_t bytes) {
  CHECK(!recorder_.recording());
  device_->CopyOut(host, device, bytes);
}
uint64_t CudaBackend::FreeMemoryBytes() const { return device_->FreeBytes(); }

double CudaBackend::MeasureReadBandwidth(size_t bytes) {
  constexpr int kPasses = 9;
  const size_t rounded = std::max<size_t>(bytes / 16 * 16, 16);
  auto memory = device_->Allocate(rounded + sizeof(float), "a block to measure with");
  if (!memory.ok()) return 0.0;
  device_->Clear(memory->data(), rounded + sizeof(float));
  Event events[kPasses + 1] = {};
  for (Event& event : events) {
    if (!device_->runtime().NewEvent(&event).ok()) return 0.0;
  }
  auto* sink = reinterpret_cast<float*>(memory->data() + rounded);
  for (int pass = 0; pass <= kPasses; ++pass) {
    device_->runtime().Record(events[pass], device_->stream());
    if (pass == kPasses) break;
    LaunchReadAll(device_->stream(), device_->info().multiprocessors, memory->data(), rounded,
                  sink);
  }
  device_->CheckLaunch();
  device_->Wait();
  std::vector<double> rates;
  for (int pass = 0; pass < kPasses; ++pass) {
    float milliseconds = 0.0f;
    device_->runtime().Milliseconds(events[pass], events[pass + 1], &milliseconds);
    rates.push_back(milliseconds > 0.0f ? static_cast<double>(rounded) / milliseconds * 1e3 : 0.0);
  }
  for (const Event event : events) device_->runtime().FreeEvent(event);
  std::nth_element(rates.begin(), rates.begin() + kPasses / 2, rates.end());
  return device_->failure() ? 0.0 : rates[kPasses / 2];
}

Result<std::unique_ptr<Weight>> CudaBackend::PackWeight(std::span<const HostMatrix> parts) {
  return PackCudaWeight(parts, *device_, pool_);
}

Result<std::unique_ptr<KvCache>> CudaBackend::AllocateKv(const KvShape& shape) {
  CheckKvShape(shape);
  if (shape.head_dim > kHeadDimMax) {
    return Unsupported(StrCat("backend \"cuda\" has attention for heads of up to ", kHeadDimMax,
                              " dimensions, the model's have ", shape.head_dim,
                              ": use backend \"cpu\""));
  }
  const size_t bytes = shape.PageBytes() * static_cast<size_t>(shape.pages);
  ASSIGN_OR_RETURN(DeviceMemory memory, device_->Allocate(bytes, "the key-value cache"));
  device_->Clear(memory.data(), bytes);
  return std::unique_ptr<KvCache>(new CudaKvCache(shape, std::move(memory)));
}

void CudaBackend::Synchronize() {
  CHECK(!recorder_.recording());
  device_->CheckLaunch();
  draws_.Download();
  device_->Wait();
  draws_.Collect();
  staging_.Reset();
  batches_.clear();
  plans_.clear();
}

Status CudaBackend::Health() const {
  if (device_->failure()) return *device_->failure();
  return {};
}

void CudaBackend::Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin,
                        float scale, Tensor out) {
  split_of_ = {};
  const auto& weight = static_cast<const CudaWeight&>(table);
  ExpectShape(out, static_cast<int64_t>(ids.size()), table.cols());
  EmbedParams params;
  params.ids = staging_.Put(ids);
  params.parts = weight.device_parts();
  params.part_count = static_cast<int>(weight.parts().size());
  params.table_rows = weight.rows();
  params.row_begin = row_begin;
  params.scale = scale;
  params.out = out;
  if (recorder_.Enqueue(Op::kEmbed, params.ids, params.parts, row_begin, scale, params.out)) {
    LaunchEmbed(device_->stream(), params);
  }
}

void CudaBackend::RmsNorm(Tensor x, const float* weight, float eps, Tensor out) {
  ExpectShape(out, x.rows, x.cols);
  const SplitRows split = SplitOf(out);
  if (recorder_.Enqueue(Op::kRmsNorm, Rows(x), weight, eps, Rows(out), split.pairs)) {
    LaunchRmsNorm(device_->stream(), x, weight, eps, out, split);
  }
}

void CudaBackend::MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) {
  const auto& weight = static_cast<const CudaWeight&>(w);
  ExpectShape(x, x.rows, w.cols());
  ExpectShape(out, x.rows, w.rows());
  if (x.rows == 0) return;
  int64_t row = 0;
  for (const PartView& part : weight.parts()) {
    const float* of_part = bias != nullptr ? bias + row : nullptr;
    const Tensor to = out.Cols(row, row + part.rows);
    row += part.rows;
    const bool there = part.lead == 0 && split_of_.data == x.data && split_of_.rows == x.rows &&
                       split_of_.cols == x.cols && split_of_.stride == x.stride;
    const SplitRows split = PlaceSplit(x.rows, part.groups);
    split_of_ = part.lead == 0 ? x : Tensor();
    if (!recorder_.Enqueue(Op::kMatMul, part.codes, Rows(x), split.pairs, of_part, Rows(to),
                           there)) {
      continue;
    }
    if (!there) LaunchSplitRows(device_->stream(), x, part.lead, split);
    LaunchMatMul(device_->stream(), device_->info().multiprocessors, part, split, of_part, to);
  }
}

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

void CudaBackend::GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) {
  CheckGated(gate_up, out);
  const SplitRows split = SplitOf(out);
  if (recorder_.Enqueue(Op::kGated, Rows(gate_up), kind, Rows(out), split.pairs)) {
    LaunchGated(device_->stream(), gate_up, kind, out, split);
  }
}

void CudaBackend::AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                              float eps) {
  split_of_ = {};
  Add({residual, delta, keep, post_norm, eps, nullptr, {}, {}});
}

void CudaBackend::AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                                  const float* post_norm, const float* norm, float eps,
                                  Tensor out) {
  ExpectShape(out, residual.rows, residual.cols);
  CHECK(terms.size() == 1);  // this backend computes on one rank
  const Tensor delta(const_cast<float*>(terms[0]), residual.rows, residual.cols);
  Add({residual, delta, keep, post_norm, eps, norm, out, SplitOf(out)});
}

void CudaBackend::Add(const ResidualParams& p) {
  CHECK(p.delta.rows == p.residual.rows && p.delta.cols == p.residual.cols);
  if (recorder_.Enqueue(Op::kAddResidual, p.residual, p.delta, p.keep, p.post_norm, p.eps, p.norm,
                        p.out, p.split.pairs)) {
    LaunchAddResidual(device_->stream(), p);
  }
}

void CudaBackend::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  split_of_ = {};
  ExpectShape(out, static_cast<int64_t>(rows.size()), x.cols);
  for (const int32_t row : rows) CHECK(row >= 0 && row < x.rows);
  const int32_t* placed = staging_.Put(rows);
  if (recorder_.Enqueue(Op::kGatherRows, Rows(x), placed, Rows(out))) {
    LaunchGatherRows(device_->stream(), x, placed, out);
  }
}

void CudaBackend::DrawTokens(Tensor logits, std::span<const DrawRow> rows,
                             std::span<DrawnToken> drawn) {
  const DrawParams params = draws_.Prepare(logits, rows, drawn);
  if (params.count > 0 && recorder_.Enqueue(Op::kDraw, params.logits, params.rows, params.count,
                                            params.slices, params.drawn, params.searches)) {
    LaunchDraw(device_->stream(), params);
  }
}

void CudaBackend::Repeat(int64_t rows, const std::function<void()>& ops) {
  if (rows > kRepeatRowsMax || device_->failure()) return ops();
  // Arrays that were placed before lie elsewhere.
  const auto begin = [&] {
    batches_.clear();
    plans_.clear();
    split_of_ = {};
  };
  begin();
  staging_.BeginRegion();
  recorder_.BeginNotes();
  ops();
  const auto again = [&] {
    begin();
    staging_.RewindRegion();
    ops();
  };
  recorder_.Launch(again, [&] { staging_.SendRegion(); });
  begin();
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
    if (recorder_.recording()) pass.FillUp(args.q.rows);
    placed.passes.push_back({static_cast<int64_t>(pass.units.size()), pass.partial_rows,
                             static_cast<int64_t>(pass.row_of.size()), put(pass.units),
                             put(pass.merge_begin), put(pass.row_of),
                             args.begin.empty() ? nullptr : put(pass.continued)});
  }
  plans_.push_back(std::move(placed));
  return plans_.back();
}

SplitRows CudaBackend::SplitOf(const Tensor& out) {
  split_of_ = out;
  return PlaceSplit(out.rows, (out.cols + kGroup - 1) / kGroup);
}

SplitRows CudaBackend::PlaceSplit(int64_t rows, int64_t groups) {
  SplitRows split = {nullptr, nullptr, rows, groups};
  if (!device_->Reserve(static_cast<size_t>(split.Bytes()), "the rows of a product", split_)) {
    return {};
  }
  split.pairs = split_.data();
  split.totals = reinterpret_cast<float*>(split_.data() + split.PairBytes());
  return split;
}

Tensor CudaBackend::Partials(int64_t rows, int64_t cols) {
  const size_t bytes = static_cast<size_t>(rows * cols) * sizeof(float);
  if (!device_->Reserve(bytes, "partial results of attention", partials_)) {
    return {nullptr, rows, cols};
  }
  return Tensor(reinterpret_cast<float*>(partials_.data()), rows, cols);
}

}  // namespace echelon::cuda
