#pragma once
// The reference backend: every op as its formula, sums in double. It is the specification that the
// other backends are measured against, so it is written to be read; only MatMul is arranged for
// speed, because perplexities of whole texts run on it. Ops finish before they return.

#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/thread_pool.h"

namespace echelon::reference {

class ReferenceBackend : public Backend {
 public:
  explicit ReferenceBackend(int threads) : pool_(threads) {}

  std::string_view name() const override { return "reference"; }
  std::string Describe() const override;
  std::string NumericsFingerprint() const override { return "reference/v1"; }

  Result<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override;
  bool host_memory() const override { return true; }
  void Upload(const void* host, void* device, size_t bytes) override;
  void Copy(const void* from, void* to, size_t bytes) override;
  void Download(const void* device, void* host, size_t bytes) override;
  uint64_t FreeMemoryBytes() const override;
  double MeasureReadBandwidth(size_t bytes) override;
  Result<std::unique_ptr<Weight>> PackWeight(std::span<const HostMatrix> parts) override;
  Result<std::unique_ptr<KvCache>> AllocateKv(const KvShape& shape) override;
  void Synchronize() override {}

  void Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin, float scale,
             Tensor out) override;
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override;
  void MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) override;
  void RopeAppend(const QkvArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void MergeAttention(const MergeArgs& args) override;
  void GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) override;
  void AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                   float eps) override;
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) override;

 private:
  ThreadPool pool_;
};

}  // namespace echelon::reference
