#include "kernels/timed_backend.h"

#include <chrono>
#include <utility>

#include "kernels/device_link.h"

namespace echelon {

namespace {

int64_t NowNs() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

class TimedBackend : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> inner, OpObserver& observer)
      : inner_(std::move(inner)), observer_(observer) {}

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
  Result<std::unique_ptr<DeviceLink>> NewLink() override { return inner_->NewLink(); }
  void SetWatch(std::function<Status()> watch) override { inner_->SetWatch(std::move(watch)); }
  int RanksOnMemory(int ranks_on_host) const override {
    return inner_->RanksOnMemory(ranks_on_host);
  }
  uint64_t FreeMemoryBytes() const override { return inner_->FreeMemoryBytes(); }
  double MeasureReadBandwidth(size_t bytes) override { return inner_->MeasureReadBandwidth(bytes); }
  Result<std::unique_ptr<Weight>> PackWeight(std::span<const HostMatrix> parts) override {
    return inner_->PackWeight(parts);
  }
  Result<std::unique_ptr<KvCache>> AllocateKv(const KvShape& shape) override {
    return inner_->AllocateKv(shape);
  }
  void SetTurn(std::function<void()> turn) override { inner_->SetTurn(std::move(turn)); }
  void Synchronize() override { inner_->Synchronize(); }
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
  // GatedMatMul is the base's: its two ops have times of their own. So are PaddedRows and Repeat:
  // ops that repeat run one by one, each with a time of its own, which a graph launched as one does
  // not have (and nothing may be waited for within one).

 private:
  template <typename Op>
  void Time(OpTime time, Op op) {
    time.begin_ns = NowNs();
    op();
    inner_->Synchronize();
    time.end_ns = NowNs();
    observer_.OnOp(time);
  }

  const std::unique_ptr<Backend> inner_;
  OpObserver& observer_;
};

}  // namespace

std::unique_ptr<Backend> MakeTimedBackend(std::unique_ptr<Backend> inner, OpObserver& observer) {
  return std::make_unique<TimedBackend>(std::move(inner), observer);
}

}  // namespace echelon
