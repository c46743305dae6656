#include "kernels/timed_backend.h"

#include <deque>
#include <utility>

#include "kernels/device_link.h"

namespace echelon {

namespace {

// What has been given to a backend and not been told yet.
class OpTimes {
 public:
  OpTimes(Backend& backend, OpObserver& observer) : backend_(backend), observer_(observer) {}

  // `op` gives it something.
  template <typename Op>
  void Time(OpTime time, Op op) {
    const uint64_t begin = backend_.Stamp();
    op();
    if (time.place == OpPlace::kHost) backend_.Synchronize();
    Add(time, begin, backend_.Stamp());
    if (time.place == OpPlace::kHost) Tell();
  }
  void Add(const OpTime& time, uint64_t begin, uint64_t end) {
    times_.push_back({time, begin, end});
  }
  // The backend is synchronized.
  void Tell() {
    if (!backend_.Health().ok()) return times_.clear();
    for (; !times_.empty(); times_.pop_front()) {
      OpTime time = times_.front().time;
      time.begin_ns = backend_.TakeStamp(times_.front().begin);
      time.end_ns = backend_.TakeStamp(times_.front().end);
      observer_.OnOp(time);
    }
  }
  uint64_t Stamp(void* stream) { return backend_.Stamp(stream); }
  int NewLink() { return links_++; }

 private:
  struct Stamped {
    OpTime time;
    uint64_t begin, end;
  };
  Backend& backend_;
  OpObserver& observer_;
  std::deque<Stamped> times_;
  int links_ = 0;  // that have been used
};

class TimedLink : public DeviceLink {
 public:
  TimedLink(std::unique_ptr<DeviceLink> inner, OpTimes& times)
      : inner_(std::move(inner)), times_(times) {}

  const DeviceCard& card() const override { return inner_->card(); }
  uint64_t Enqueue(std::span<const uint64_t> facts,
                   const std::function<Status(void* stream)>& launch) override {
    return inner_->Enqueue(facts, [&](void* stream) {
      const uint64_t begin = times_.Stamp(stream);
      Status launched = launch(stream);
      Add("transfer", begin, stream);
      return launched;
    });
  }
  // Its stamps go into the queue before and behind it.
  uint64_t Sum(std::span<const float* const> terms, int64_t count, float* out) override {
    uint64_t begin = 0;
    inner_->Enqueue({}, [&](void* stream) {
      begin = times_.Stamp(stream);
      return Status();
    });
    inner_->Sum(terms, count, out);
    return inner_->Enqueue({}, [&](void* stream) {
      Add("sum", begin, stream);
      return Status();
    });
  }
  void Join(uint64_t place) override {
    times_.Time({.op = "wait", .place = OpPlace::kDeviceWait, .link = Number()},
                [&] { inner_->Join(place); });
  }
  PeerHandle Share(DeviceBuffer& memory) override { return inner_->Share(memory); }
  Result<std::unique_ptr<DeviceBuffer>> Map(const PeerHandle& handle) override {
    return inner_->Map(handle);
  }
  Result<std::unique_ptr<Mailboxes>> NewMailboxes(const MailboxOptions& options) override {
    return inner_->NewMailboxes(options);
  }
  LinkTimes TakeTimes() override { return inner_->TakeTimes(); }

 private:
  void Add(const char* op, uint64_t begin, void* stream) {
    const uint64_t end = times_.Stamp(stream);
    times_.Add({.op = op, .place = OpPlace::kDeviceLink, .link = Number()}, begin, end);
  }

  // From 0; those that are made for their card alone have none.
  int Number() {
    if (number_ < 0) number_ = times_.NewLink();
    return number_;
  }

  const std::unique_ptr<DeviceLink> inner_;
  int number_ = -1;
  OpTimes& times_;
};

class TimedBackend : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> inner, OpObserver& observer)
      : inner_(std::move(inner)), times_(*inner_, observer) {}

  std::string_view name() const override { return inner_->name(); }
  std::string Describe() const override { return inner_->Describe(); }
  std::string NumericsFingerprint() const override { return inner_->NumericsFingerprint(); }
  Result<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override {
    return inner_->Allocate(bytes);
  }
  bool host_memory() const override { return inner_->host_memory(); }
  void Upload(const void* host, void* device, size_t bytes) override {
    inner_->Upload(host, device, bytes);
  }
  void Download(const void* device, void* host, size_t bytes) override {
    inner_->Download(device, host, bytes);
  }
  void Copy(const void* from, void* to, size_t bytes) override { inner_->Copy(from, to, bytes); }
  Result<std::unique_ptr<DeviceLink>> NewLink() override {
    ASSIGN_OR_RETURN(auto link, inner_->NewLink());
    return std::unique_ptr<DeviceLink>(new TimedLink(std::move(link), times_));
  }
  void SetWatch(std::function<Status(bool over)> watch) override {
    inner_->SetWatch(std::move(watch));
  }
  std::string MemoryId() const override { return inner_->MemoryId(); }
  std::string DeviceName() const override { return inner_->DeviceName(); }
  uint64_t FreeMemoryBytes() const override { return inner_->FreeMemoryBytes(); }
  uint64_t ScratchBytes(int64_t rows, int64_t cols) const override {
    return inner_->ScratchBytes(rows, cols);
  }
  double MeasureReadBandwidth(size_t bytes) override { return inner_->MeasureReadBandwidth(bytes); }
  Result<std::unique_ptr<Weight>> PackWeight(std::span<const HostMatrix> parts) override {
    return inner_->PackWeight(parts);
  }
  Result<std::unique_ptr<KvCache>> AllocateKv(const KvShape& shape) override {
    return inner_->AllocateKv(shape);
  }
  void SetTurn(std::function<void()> turn) override { inner_->SetTurn(std::move(turn)); }
  void Synchronize() override {
    inner_->Synchronize();
    times_.Tell();
  }
  void Announce(const Weight& next) override { inner_->Announce(next); }
  bool ReadAhead() override { return inner_->ReadAhead(); }
  Status Health() const override { return inner_->Health(); }

  void Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin, float scale,
             Tensor out) override {
    Time({"embed", &table, -1, out.rows},
         [&] { inner_->Embed(ids, table, row_begin, scale, out); });
  }
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override {
    Time({"rms_norm", weight, -1, x.rows}, [&] { inner_->RmsNorm(x, weight, eps, out); });
  }
  void MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) override {
    Time({"matmul", &w, -1, x.rows}, [&] { inner_->MatMul(x, w, bias, out); });
  }
  void RopeAppend(const QkvArgs& args) override {
    Time({"rope_append", nullptr, args.layer, args.qkv.rows}, [&] { inner_->RopeAppend(args); });
  }
  void Attention(const AttentionArgs& args) override {
    Time({"attention", nullptr, args.layer, args.q.rows}, [&] { inner_->Attention(args); });
  }
  void MergeAttention(const MergeArgs& args) override {
    Time({"merge_attention", nullptr, -1, args.out.rows}, [&] { inner_->MergeAttention(args); });
  }
  void GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) override {
    Time({"gated_activation", nullptr, -1, out.rows},
         [&] { inner_->GatedActivation(gate_up, kind, out); });
  }
  void AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                   float eps) override {
    Time({"add_residual", post_norm, -1, residual.rows},
         [&] { inner_->AddResidual(residual, delta, keep, post_norm, eps); });
  }
  void AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                       const float* post_norm, const float* norm, float eps, Tensor out) override {
    Time({"add_residual_norm", norm, -1, residual.rows},
         [&] { inner_->AddResidualNorm(residual, terms, keep, post_norm, norm, eps, out); });
  }
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) override {
    Time({"gather_rows", nullptr, -1, out.rows}, [&] { inner_->GatherRows(x, rows, out); });
  }
  void DrawTokens(const DrawArgs& args) override {
    Time({"draw_tokens", nullptr, -1, args.logits.rows}, [&] { inner_->DrawTokens(args); });
  }
  // GatedMatMul is the base's: its two ops have times of their own. So are PaddedRows, Repeat and
  // marks: ops that repeat run one by one, and a step is told before the next begins.

 private:
  template <typename Op>
  void Time(OpTime time, Op op) {
    if (!inner_->host_memory()) time.place = OpPlace::kDevice;
    times_.Time(time, op);
  }

  const std::unique_ptr<Backend> inner_;
  OpTimes times_;
};

}  // namespace

std::unique_ptr<Backend> MakeTimedBackend(std::unique_ptr<Backend> inner, OpObserver& observer) {
  return std::make_unique<TimedBackend>(std::move(inner), observer);
}

}  // namespace echelon
