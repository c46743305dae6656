#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "common/strings.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/weight.h"
#include "kernels/shape_check.h"

namespace echelon::cuda {

namespace {

class CudaBuffer : public DeviceBuffer {
 public:
  explicit CudaBuffer(DeviceMemory memory) : memory_(std::move(memory)) {}
  void* data() override { return memory_.data(); }
  size_t bytes() const override { return memory_.bytes(); }

 private:
  DeviceMemory memory_;
};

}  // namespace

CudaBackend::CudaBackend(std::unique_ptr<Device> device, int threads, bool timed)
    : device_(std::move(device)),
      timed_(timed),
      pool_(threads),
      staging_(*device_),
      draws_(*device_, staging_),
      recorder_(*device_),
      stamps_(*device_) {
  for (StepMark& mark : marks_) mark.event = device_->NewEvent();
}

CudaBackend::~CudaBackend() {
  device_->Wait();
  for (const StepMark& mark : marks_) device_->runtime().FreeEvent(mark.event);
}

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
  device_->WaitWatched();  // to such memory the driver copies before it returns
  device_->CopyOut(host, device, bytes);
}
void CudaBackend::Copy(const void* from, void* to, size_t bytes) {
  split_of_ = {};
  if (recorder_.Enqueue(Op::kCopy, from, to, bytes)) device_->CopyOnDevice(to, from, bytes);
}
uint64_t CudaBackend::FreeMemoryBytes() const { return device_->FreeBytes(); }

std::string CudaBackend::MemoryId() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string id;
  for (const uint8_t byte : device_->info().uuid) {
    id += kDigits[byte / 16];
    id += kDigits[byte % 16];
  }
  return id;
}

double CudaBackend::MeasureReadBandwidth(size_t bytes) {
  constexpr int kPasses = 9;
  const size_t rounded = std::max<size_t>(bytes / 16 * 16, 16);
  auto memory = device_->Allocate(rounded + sizeof(float), "a block to measure with");
  if (!memory.ok()) return 0.0;
  device_->Clear(memory->data(), rounded + sizeof(float));
  Event events[kPasses + 1] = {};
  for (Event& event : events) {
    if (!device_->runtime().NewEvent(true, &event).ok()) return 0.0;
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
  EndStep();
  device_->Wait();
  for (int place = 0; place < kMarksMax; ++place) draws_.Collect(place, !device_->failure());
  waited_ = marked_;
  stamps_.Settle();
}

uint64_t CudaBackend::Stamp(void* stream) {
  CHECK(timed_);
  return stamps_.Put(stream != nullptr ? stream : device_->stream());
}

uint64_t CudaBackend::Mark() {
  CHECK(marked_ - waited_ < kMarksMax);
  EndStep();
  StepMark& mark = marks_[PlaceOf(marked_)];
  mark.failure = device_->failure();
  device_->Record(mark.event);
  return marked_++;
}

bool CudaBackend::Reached(uint64_t mark) {
  // What another rank's fault keeps from happening ends here, too: WaitFor has the error.
  return mark < waited_ || marks_[PlaceOf(mark)].failure ||
         device_->Happened(marks_[PlaceOf(mark)].event) || !device_->WatchedWell();
}

// What failed behind the mark is not this step's.
Status CudaBackend::WaitFor(uint64_t mark) {
  if (mark < waited_) return Health();
  CHECK(mark == waited_ && mark < marked_);
  ++waited_;
  const StepMark& at = marks_[PlaceOf(mark)];
  const Status done = at.failure ? *at.failure : device_->WaitEvent(at.event);
  draws_.Collect(PlaceOf(mark), done.ok());
  return done;
}

// The next op belongs to another step: what the host hands over then is not what it did before.
void CudaBackend::EndStep() {
  CHECK(!recorder_.recording());
  JoinLinks();
  device_->CheckLaunch();
  draws_.Download(PlaceOf(marked_));
  staging_.Turn();
  batches_.clear();
  plans_.clear();
}

Result<std::unique_ptr<DeviceLink>> CudaBackend::NewLink() {
  CHECK(!recorder_.recording());
  // What the link has written may be rows whose split form is kept.
  return CudaLink::Create(*device_, recorder_, links_, timed_, [this] { split_of_ = {}; });
}

void CudaBackend::JoinLinks() {
  for (CudaLink* link : links_) link->JoinAll();
}

Status CudaBackend::Health() const {
  if (device_->failure()) return *device_->failure();
  return {};
}

void CudaBackend::Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin,
                        float scale, Tensor out) {
  CHECK(marked_ - waited_ < kMarksMax);  // a step begins: its arrays take the place of others
  split_of_ = {};
  const auto& weight = static_cast<const CudaWeight&>(table);
  ExpectShape(out, static_cast<int64_t>(ids.size()), table.cols());
  EmbedParams params;
  params.ids = staging_.Put(ids);
  params.drawn = draws_.Last();
  params.parts = weight.device_parts();
  params.part_count = static_cast<int>(weight.parts().size());
  params.table_rows = weight.rows();
  params.row_begin = row_begin;
  params.scale = scale;
  params.out = out;
  if (recorder_.Enqueue(Op::kEmbed, params.ids, params.drawn, params.parts, row_begin, scale,
                        params.out)) {
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
    const auto [split, there] = SplitFor(x, part);
    if (!recorder_.Enqueue(Op::kMatMul, part.codes, Rows(x), split.pairs, of_part, Rows(to),
                           there)) {
      continue;
    }
    if (!there) LaunchSplitRows(device_->stream(), x, part.lead, split);
    LaunchMatMul(device_->stream(), device_->info().multiprocessors, part, split, of_part, to);
  }
}

void CudaBackend::GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) {
  CheckGated(gate_up, out);
  const SplitRows split = SplitOf(out);
  if (recorder_.Enqueue(Op::kGated, Rows(gate_up), kind, Rows(out), split.pairs)) {
    LaunchGated(device_->stream(), gate_up, kind, out, split);
  }
}

void CudaBackend::GatedMatMul(Tensor x, const Weight& gate_up, const Weight& next, GatedKind kind,
                              Tensor scratch, Tensor out) {
  const auto& weight = static_cast<const CudaWeight&>(gate_up);
  const PartView& part = weight.parts()[0];
  if (x.rows == 0 || x.rows > kGatedMatMulRowsMax || weight.parts().size() > 1 || part.lead != 0 ||
      out.cols % kGroup != 0 || !HasGatedMatMul(part.packing)) {
    return Backend::GatedMatMul(x, gate_up, next, kind, scratch, out);
  }
  ExpectShape(x, x.rows, gate_up.cols());
  ExpectShape(out, x.rows, gate_up.rows() / 2);
  const auto [split, there] = SplitFor(x, part);
  DeviceMemory& other = split.pairs == gated_split_.data() ? split_ : gated_split_;
  const GatedMatMulParams params = {part, split, kind == GatedKind::kSilu, out,
                                    SplitOf(out, other)};
  if (!recorder_.Enqueue(Op::kGatedMatMul, part.codes, Rows(x), split.pairs, params.silu,
                         params.out, params.split.pairs, there)) {
    return;
  }
  if (!there) LaunchSplitRows(device_->stream(), x, part.lead, split);
  LaunchGatedMatMul(device_->stream(), params);
}

void CudaBackend::AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                              float eps) {
  split_of_ = {};
  Add({residual, delta, keep, post_norm, eps, nullptr, {}, {}, {}, 0});
}

void CudaBackend::AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                                  const float* post_norm, const float* norm, float eps,
                                  Tensor out) {
  ExpectShape(out, residual.rows, residual.cols);
  CHECK(!terms.empty() && terms.size() <= kTermsMax);
  const Tensor delta(const_cast<float*>(terms[0]), residual.rows, residual.cols);
  ResidualParams params = {residual, delta, keep, post_norm, eps, norm, out, SplitOf(out), {}, 0};
  for (const float* term : terms.subspan(1)) params.more[params.more_count++] = term;
  Add(params);
}

void CudaBackend::Add(const ResidualParams& p) {
  CHECK(p.delta.rows == p.residual.rows && p.delta.cols == p.residual.cols);
  const std::span<const float* const> more(p.more, static_cast<size_t>(p.more_count));
  if (recorder_.Enqueue(Op::kAddResidual, p.residual, p.delta, more, p.keep, p.post_norm, p.eps,
                        p.norm, p.out, p.split.pairs)) {
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

void CudaBackend::DrawTokens(const DrawArgs& args) {
  const DrawParams params = draws_.Prepare(PlaceOf(marked_), args);
  if (params.count == 0) return;
  const bool launch = recorder_.Enqueue(
      Op::kDraw, params.logits, params.rows, params.count, params.maxima, params.draws,
      params.searches_by[0], params.searches_by[1], params.sums, params.drawn, params.changes,
      params.raw, params.slice_scores, params.scores);
  LaunchDraw(device_->stream(), params, launch,
             args.part != nullptr ? args.part->gather : DrawGather());
}

void CudaBackend::Repeat(int64_t rows, const std::function<void()>& ops) {
  if (rows > kRepeatRowsMax || timed_ || device_->failure()) return ops();
  // Arrays that were placed before lie elsewhere.
  const auto begin = [&] {
    batches_.clear();
    plans_.clear();
    split_of_ = {};
  };
  // A graph cannot wait for what is outside it, nor end before its links are joined.
  JoinLinks();
  const auto joined_ops = [&] {
    ops();
    JoinLinks();
  };
  begin();
  staging_.BeginRegion();
  recorder_.BeginNotes();
  joined_ops();
  const auto again = [&] {
    begin();
    staging_.RewindRegion();
    joined_ops();
  };
  recorder_.Launch(again, [&] { staging_.SendRegion(); });
  begin();
}

SplitRows CudaBackend::SplitOf(const Tensor& out, DeviceMemory& memory) {
  split_of_ = out;
  split_rows_ = PlaceSplit(out.rows, (out.cols + kGroup - 1) / kGroup, memory);
  return split_rows_;
}

std::pair<SplitRows, bool> CudaBackend::SplitFor(const Tensor& x, const PartView& part) {
  if (part.lead != 0) {
    split_of_ = {};
    return {PlaceSplit(x.rows, part.groups, split_), false};
  }
  const bool there = split_of_.data == x.data && split_of_.rows == x.rows &&
                     split_of_.cols == x.cols && split_of_.stride == x.stride;
  return {there ? split_rows_ : SplitOf(x), there};
}

SplitRows CudaBackend::PlaceSplit(int64_t rows, int64_t groups, DeviceMemory& memory) {
  SplitRows split = {nullptr, nullptr, rows, groups};
  if (!device_->Reserve(static_cast<size_t>(split.Bytes()), "the rows of a product", memory)) {
    return {};
  }
  split.pairs = memory.data();
  split.totals = reinterpret_cast<float*>(memory.data() + split.PairBytes());
  return split;
}

}  // namespace echelon::cuda
