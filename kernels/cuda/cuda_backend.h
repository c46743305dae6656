#pragma once
// The CUDA backend: quantised weights in device memory, float activations, kernels of our own on
// one stream. Ops return when they are enqueued; what they read of the host is copied before that.
// Driven by one host thread, the one that made it. The first error of the device is kept (Health);
// ops after it do nothing. Row invariance holds for every op: see the kernels.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cuda_link.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/recorder.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/stamps.h"
#include "kernels/cuda/token_draws.h"
#include "kernels/thread_pool.h"

namespace echelon::cuda {

class CudaBackend : public Backend {
 public:
  // threads: that pack weights.
  // timed: as in BackendOptions.
  CudaBackend(std::unique_ptr<Device> device, int threads, bool timed = false);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  std::string Describe() const override;
  std::string NumericsFingerprint() const override;

  Result<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override;
  void Upload(const void* host, void* device, size_t bytes) override;
  void Copy(const void* from, void* to, size_t bytes) override;
  void Download(const void* device, void* host, size_t bytes) override;
  uint64_t FreeMemoryBytes() const override;
  uint64_t ScratchBytes(int64_t rows, int64_t cols) const override;
  std::string MemoryId() const override;
  std::string DeviceName() const override { return device_->name(); }
  double MeasureReadBandwidth(size_t bytes) override;
  Result<std::unique_ptr<Weight>> PackWeight(std::span<const HostMatrix> parts) override;
  Result<std::unique_ptr<KvCache>> AllocateKv(const KvShape& shape) override;
  void Synchronize() override;
  uint64_t Mark() override;
  bool Reached(uint64_t mark) override;
  Status WaitFor(uint64_t mark) override;
  Status Health() const override;
  Result<std::unique_ptr<DeviceLink>> NewLink() override;
  void SetWatch(std::function<Status(bool over)> watch) override {
    device_->SetWatch(std::move(watch));
  }
  uint64_t Stamp(void* stream) override;
  int64_t TakeStamp(uint64_t stamp) override { return stamps_.Take(stamp); }

  void Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin, float scale,
             Tensor out) override;
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override;
  void MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) override;
  void RopeAppend(const QkvArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void MergeAttention(const MergeArgs& args) override;
  void GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) override;
  void GatedMatMul(Tensor x, const Weight& gate_up, const Weight& next, GatedKind kind,
                   Tensor scratch, Tensor out) override;
  void AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                   float eps) override;
  void AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                       const float* post_norm, const float* norm, float eps, Tensor out) override;
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) override;
  void DrawTokens(const DrawArgs& args) override;
  int64_t PaddedRows(int64_t rows) const override { return RepeatRows(rows); }
  void Repeat(int64_t rows, const std::function<void()>& ops) override;

 private:
  // Of a step that has ended.
  struct StepMark {
    Event event = nullptr;
    std::optional<Error> failure;  // of the device when the mark was made
  };
  static int PlaceOf(uint64_t mark) { return static_cast<int>(mark % kMarksMax); }
  void EndStep();
  void JoinLinks();  // what links were given is before what comes next

  // A batch's arrays in device memory. Those of a step are asked for by every layer: what was put
  // there stays until the step ends.
  struct PlacedBatch {
    BatchRows rows;
    BatchView view;
  };
  struct PlacedPass {
    int64_t unit_count = 0, partial_rows = 0, rows = 0;
    const AttentionUnit* units = nullptr;
    const int32_t* merge_begin = nullptr;
    const int32_t* row_of = nullptr;
    const int32_t* continued = nullptr;  // null where the whole is attended at once
  };
  struct PlacedPlan {
    BatchRows rows;
    std::span<const int32_t> begin, end;
    int window = 0;
    AttentionLimits limits;
    const AttentionRow* row_places = nullptr;
    const AttentionUnit* whole = nullptr;
    int64_t whole_count = 0;
    std::vector<PlacedPass> passes;
  };

  void Add(const ResidualParams& params);
  BatchView Place(const BatchRows& rows);
  const PlacedPlan& PlaceAttention(const AttentionArgs& args, const AttentionLimits& limits);
  AttentionLimits LimitsOf(const AttentionArgs& args, const CacheView& cache) const;
  // A rope table, kept: the layers of a model share one or two, equal in value if not in place.
  const double* PlaceFrequencies(std::span<const double> frequencies);
  // Scratch memory, which the next op of the kind overwrites: rows of a product, partial results.
  // SplitOf: for an op that is about to make `out`, most likely a product's rows.
  SplitRows SplitOf(const Tensor& out) { return SplitOf(out, split_); }
  SplitRows SplitOf(const Tensor& out, DeviceMemory& memory);
  SplitRows PlaceSplit(int64_t rows, int64_t groups, DeviceMemory& memory);
  // x as a part's products take it, and whether it is there already; else it is to be made.
  std::pair<SplitRows, bool> SplitFor(const Tensor& x, const PartView& part);
  Tensor Partials(int64_t rows, int64_t cols);

  const std::unique_ptr<Device> device_;
  const bool timed_;
  ThreadPool pool_;
  Staging staging_;
  TokenDraws draws_;
  Recorder recorder_;
  std::vector<PlacedBatch> batches_;
  std::vector<PlacedPlan> plans_;
  std::vector<std::pair<std::vector<double>, DeviceMemory>> frequencies_;
  DeviceMemory split_, gated_split_, partials_;
  // Rows whose split form is kept as they are now, and where; none where that is not known.
  Tensor split_of_;
  SplitRows split_rows_;
  std::vector<CudaLink*> links_;  // those there are
  Stamps stamps_;
  std::array<StepMark, kMarksMax> marks_;
  uint64_t marked_ = 0, waited_ = 0;
};

}  // namespace echelon::cuda
