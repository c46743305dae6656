// MatMul of the CPU backend: activations to codes once, then panels handed out to threads.

#include <algorithm>

#include "kernels/cpu/cpu_backend.h"

namespace echelon::cpu {

namespace {
// Panels that one thread takes at a time: at most 64 KiB of weights, so that they stay in the
// second-level cache while all tokens pass over them; at least eight ranges a thread where there
// are that many panels, so that a slow thread keeps the others waiting for an eighth at most.
constexpr int64_t kRangeBytes = 64 << 10;

int64_t PanelsPerRange(const PanelPart& part, int threads) {
  const int64_t fit = std::max<int64_t>(1, kRangeBytes / std::max<int64_t>(1, part.panel_bytes));
  return std::clamp<int64_t>(part.panels / (8 * threads), 1, fit);
}

template <typename T>
T* Grow(std::vector<T>& scratch, int64_t size) {
  if (static_cast<int64_t>(scratch.size()) < size) scratch.resize(static_cast<size_t>(size));
  return scratch.data();
}
}  // namespace

QuantisedRows CpuBackend::Quantise(const Tensor& x, int lead) {
  QuantisedRows rows;
  rows.groups = (x.cols + lead + kGroup - 1) / kGroup;
  const int64_t groups = x.rows * rows.groups;
  rows.codes = Grow(codes_, groups * 2 * kGroup);
  rows.scales = Grow(scales_, groups);
  rows.sums = Grow(sums_, groups);
  rows.half_sums = Grow(half_sums_, 2 * groups);
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, x.cols));
  pool_.ParallelFor(x.rows, grain, [&](int64_t begin, int64_t end, int) {
    kernels_.quantise(x.data, x.stride, x.cols, lead, begin, end, rows);
  });
  return rows;
}

void CpuBackend::MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) {
  const auto& weight = static_cast<const CpuWeight&>(w);
  ExpectShape(x, x.rows, weight.cols());
  ExpectShape(out, x.rows, weight.rows());
  MatMulArgs args;
  args.x = x.data;
  args.x_stride = x.stride;
  if (weight.any_quantised()) args.quantised = Quantise(x, weight.lead());
  args.tokens = x.rows;
  args.bias = bias;
  args.out = out.data;
  args.out_stride = out.stride;
  // One job over the panels of all parts; a range that reaches over a border is cut there.
  const auto& parts = weight.parts();
  const int64_t grain = PanelsPerRange(parts[0], pool_.threads());
  pool_.ParallelFor(weight.panels(), grain, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;  // panel of the stacked weight where the part begins
    for (const PanelPart& part : parts) {
      const int64_t from = std::max(begin, first), to = std::min(end, first + part.panels);
      if (from < to) kernels_.matmul(args, part, from - first, to - first);
      first += part.panels;
    }
  });
}

}  // namespace echelon::cpu
