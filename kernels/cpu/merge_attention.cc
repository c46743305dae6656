// Partial attention of several lists of pages put together, in the order the caller gives.

#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/shape_check.h"

namespace echelon::cpu {

void CpuBackend::MergeAttention(const MergeArgs& args) {
  CheckMerge(args);
  const int dim = args.head_dim, stride = (dim + 15) / 16 * 16;
  const int slot = stride + kSlotExtra;
  std::vector<float> states(static_cast<size_t>(pool_.threads()) * 2 * slot, 0.0f);
  pool_.ParallelFor(args.out.rows, 1, [&](int64_t t, int64_t, int thread) {
    float* state = states.data() + int64_t{thread} * 2 * slot;
    float* later = state + slot;
    for (int h = 0; h < args.heads; ++h) {
      const auto part = [&](int32_t i) {
        return args.partials.row(args.parts[i]) + int64_t{h} * (dim + 2);
      };
      const auto read = [&](int32_t i, float* to) {
        const float* from = part(i);
        std::copy_n(from, dim, to);
        std::copy_n(from + dim, kSlotExtra, to + stride);
      };
      read(args.begin[t], state);
      for (int32_t i = args.begin[t] + 1; i < args.begin[t + 1]; ++i) {
        read(i, later);
        const float* next = later;
        kernels_.merge_splits(&state, &next, 1, stride);
      }
      float* out = args.out.row(t) + int64_t{h} * dim;
      for (int i = 0; i < dim; ++i) out[i] = state[i] / state[stride + 1];
    }
  });
}

}  // namespace echelon::cpu
