#pragma once
// The CPU backend: packed weights, 15-bit activations, the kernels of the chosen instruction set,
// its own thread pool. Ops finish before they return. Driven by one host thread; scratch memory
// grows to the largest step seen and stays.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/attender.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/panels.h"
#include "kernels/cpu/rope_angles.h"
#include "kernels/host_memory.h"
#include "kernels/thread_pool.h"

namespace echelon::cpu {

// Whether this machine has the least instruction set we need (AVX2, FMA, F16C).
bool CpuSupported();
// The kernels of `isa` (auto | avx2 | avxvnni | avx512), or an error that says what the machine
// lacks.
Result<const CpuKernels*> ChooseKernels(std::string_view isa);

class CpuBackend : public Backend {
 public:
  CpuBackend(const CpuKernels& kernels, int threads)
      : kernels_(kernels), pool_(threads), scratch_(threads) {}

  std::string_view name() const override { return "cpu"; }
  std::string Describe() const override;
  std::string NumericsFingerprint() const override;

  Result<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override;
  bool host_memory() const override { return true; }
  void Upload(const void* host, void* device, size_t bytes) override;
  void Copy(const void* from, void* to, size_t bytes) override;
  void Download(const void* device, void* host, size_t bytes) override;
  uint64_t FreeMemoryBytes() const override;
  double MeasureReadBandwidth(size_t bytes) override;
  Result<std::unique_ptr<Weight>> PackWeight(std::span<const HostMatrix> parts) override;
  Result<std::unique_ptr<KvCache>> AllocateKv(const KvShape& shape) override;
  void SetTurn(std::function<void()> turn) override { pool_.SetTurn(std::move(turn)); }
  void Synchronize() override {}
  void Announce(const Weight& next) override;
  bool ReadAhead() override { return pool_.ReadAhead(); }

  void Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin, float scale,
             Tensor out) override;
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override;
  void MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) override;
  void RopeAppend(const QkvArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void MergeAttention(const MergeArgs& args) override;
  void GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) override;
  void AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                       const float* post_norm, const float* norm, float eps, Tensor out) override;
  void AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                   float eps) override;
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) override;

 private:
  // x (T, K) as codes, in scratch memory.
  QuantisedRows Quantise(const Tensor& x, int lead);
  void AskForTiles(const QkvArgs& args, int64_t row) const;
  // Cuts an attention op into attention_units_, the longest first.
  void PlanAttention(const AttentionJob& job);
  // Panels [begin, end) of the stacked weight.
  void MultiplyPanels(const MatMulArgs& args, const CpuWeight& weight, int64_t begin, int64_t end,
                      MatMulRange range) const;

  const CpuKernels& kernels_;
  ThreadPool pool_;
  HostArena arena_;  // of weights
  RopeAngles angles_;
  std::vector<int16_t> codes_;  // of Quantise
  std::vector<float> scales_, sums_;
  std::vector<int8_t> bytes_;
  std::vector<int32_t> half_sums_;
  std::vector<MatMulScratch> scratch_;  // one a thread
  // Of Attention.
  std::vector<AttentionUnit> attention_units_;
  std::vector<RowPartials> partials_;  // (T)
  std::vector<float> partial_slots_;   // what they point to
  std::vector<Attender> attenders_;    // a thread each
};

}  // namespace echelon::cpu
