// MatMul of the CPU backend: activations to codes once, then panels handed out to threads.

#include <algorithm>

#include "kernels/cpu/cpu_backend.h"

namespace echelon::cpu {

namespace {
// Panels that one thread takes at a time: at most 64 KiB of weights, at least eight ranges a thread
// where there are that many panels, so that a slow thread keeps the others waiting for an eighth at
// most. Whole pairs, which the kernels unpack at once.
constexpr int64_t kRangeBytes = 64 << 10;

int64_t PanelsPerRange(const PanelPart& part, int64_t panels, int threads) {
  const int64_t fit = std::max<int64_t>(1, kRangeBytes / std::max<int64_t>(1, part.panel_bytes));
  const int64_t range = std::clamp<int64_t>(panels / (8 * threads), 1, fit);
  return (range + kPanelsAtOnce - 1) / kPanelsAtOnce * kPanelsAtOnce;
}

// What a thread reads ahead of the announced weight at most: an eighth of a second-level cache of 2
// MiB, some 15 us of a core's reading; more than the time between two products of a decode step.
constexpr size_t kAheadBytes = 256 << 10;

template <typename T>
T* Grow(std::vector<T>& scratch, int64_t size) {
  if (static_cast<int64_t>(scratch.size()) < size) scratch.resize(static_cast<size_t>(size));
  return scratch.data();
}
}  // namespace

void CpuBackend::Announce(const Weight& next) {
  const auto& weight = static_cast<const CpuWeight&>(next);
  const int64_t panels = weight.panels();
  const int64_t grain = PanelsPerRange(weight.parts()[0], panels, pool_.threads());
  for (int thread = 0; thread < pool_.threads(); ++thread) {
    const auto bytes = weight.PanelBytes(pool_.RegionBegin(panels, grain, thread),
                                         pool_.RegionBegin(panels, grain, thread + 1));
    pool_.TellAhead(thread, bytes.first(std::min(bytes.size(), kAheadBytes)));
  }
}

QuantisedRows CpuBackend::Quantise(const Tensor& x, int lead) {
  QuantisedRows rows;
  rows.tokens = x.rows;
  rows.groups = (x.cols + lead + kGroup - 1) / kGroup;
  const int64_t groups = x.rows * rows.groups;
  rows.codes = Grow(codes_, groups * kGroup);
  rows.scales = Grow(scales_, groups);
  rows.sums = Grow(sums_, groups);
  if (x.rows <= kernels_.byte_tokens) {
    rows.bytes = Grow(bytes_, groups * 2 * kGroup);
    rows.half_sums = Grow(half_sums_, groups * 2);
  }
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
  args.bias = bias;
  args.out = out.data;
  args.out_stride = out.stride;
  // One job over chunks of tokens and, within a chunk, the panels of all parts; a range that
  // reaches over a border of a chunk or part is cut there.
  const int64_t chunks = (x.rows + kChunkTokens - 1) / kChunkTokens;
  const int64_t panels = weight.panels();
  const int64_t grain = PanelsPerRange(weight.parts()[0], panels, pool_.threads());
  pool_.ParallelFor(chunks * panels, grain, [&](int64_t begin, int64_t end, int thread) {
    while (begin < end) {
      const int64_t chunk = begin / panels, first = begin % panels;
      const int64_t last = std::min(panels, first + end - begin);
      MultiplyPanels(args, weight, first, last,
                     {.token_begin = chunk * kChunkTokens,
                      .token_end = std::min(x.rows, (chunk + 1) * kChunkTokens),
                      .scratch = &scratch_[thread]});
      begin += last - first;
    }
  });
}

void CpuBackend::MultiplyPanels(const MatMulArgs& args, const CpuWeight& weight, int64_t begin,
                                int64_t end, MatMulRange range) const {
  int64_t first = 0;  // panel of the stacked weight where the part begins
  for (const PanelPart& part : weight.parts()) {
    range.panel_begin = std::max(begin, first) - first;
    range.panel_end = std::min(end, first + part.panels) - first;
    if (range.panel_begin < range.panel_end) kernels_.matmul(args, part, range);
    first += part.panels;
  }
}

}  // namespace echelon::cpu
