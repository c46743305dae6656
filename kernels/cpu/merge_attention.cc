// Partial attention of several lists of pages put together, in the order the caller gives.

#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/shape_check.h"

namespace echelon::cpu {

void CpuBackend::MergeAttention(const MergeArgs& args) {
  CheckMerge(args);
  const int dim = args.head_dim, stride = (dim + 15) / 16 * 16;
  std::vector<float> states(static_cast<size_t>(pool_.threads()) * 2 * stride, 0.0f);
  pool_.ParallelFor(args.out.rows, 1, [&](int64_t t, int64_t, int thread) {
    float* state = states.data() + int64_t{thread} * 2 * stride;
    float* later = state + stride;
    for (int h = 0; h < args.heads; ++h) {
      const auto part = [&](int32_t i) {
        return args.partials.row(args.parts[i]) + int64_t{h} * (dim + 2);
      };
      const float* first = part(args.begin[t]);
      std::copy_n(first, dim, state);
      float best = first[dim], total = first[dim + 1];
      for (int32_t i = args.begin[t] + 1; i < args.begin[t + 1]; ++i) {
        const float* next = part(i);
        std::copy_n(next, dim, later);
        kernels_.merge_split(state, &best, &total, later, next[dim], next[dim + 1], stride);
      }
      float* out = args.out.row(t) + int64_t{h} * dim;
      for (int i = 0; i < dim; ++i) out[i] = state[i] / total;
    }
  });
}

}  // namespace echelon::cpu
