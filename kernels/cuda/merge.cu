// Puts partial attention together, in the order given: state = state * keep + part * take, with
// keep = e^(best before - best now), take = e^(part's best - best now). One block for a row and a
// head. The running maximum of 256 parts is found side by side (a maximum has no rounding), their
// factors too; the sums themselves go part by part, a thread a dimension. A state that was stored
// and continued gives the same bits as one that went on.

#include <math.h>

#include "kernels/cuda/split_rows.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = 256;  // parts at once, and at least the dimensions of a head

// running[i] = max(carry, best[0..i]) for the block's 256 values.
__device__ float RunningMax(float value, float carry, float* running) {
  const int i = static_cast<int>(threadIdx.x);
  value = fmaxf(value, carry);
  for (int distance = 1; distance < kThreads; distance *= 2) {
    running[i] = value;
    __syncthreads();
    if (i >= distance) value = fmaxf(value, running[i - distance]);
    __syncthreads();
  }
  running[i] = value;
  __syncthreads();
  return value;
}

__global__ void __launch_bounds__(kThreads) MergeKernel(MergeParams p) {
  __shared__ float running[kThreads], keep[kThreads], take[kThreads];
  __shared__ int32_t part_rows[kThreads];
  const int64_t t = blockIdx.x, h = blockIdx.y;
  const int i = static_cast<int>(threadIdx.x), dim = p.head_dim;
  const int64_t place = p.row_of != nullptr ? p.row_of[t] : t;
  if (place < 0) return;  // the whole block: it fills up
  const int64_t of_head = h * (dim + 2);
  const bool continued = p.continued != nullptr && p.continued[t] != 0;
  float* state =
      p.states.data != nullptr ? p.states.data + place * p.states.stride + of_head : nullptr;
  float sum = continued && i < dim ? state[i] : 0.0f;
  float best = continued ? state[dim] : -INFINITY;
  float total = continued ? state[dim + 1] : 0.0f;
  const int32_t end = p.begin[t + 1];
  for (int32_t from = p.begin[t]; from < end; from += kThreads) {
    const int count = end - from < kThreads ? end - from : kThreads;
    const int32_t row = i < count ? (p.list != nullptr ? p.list[from + i] : from + i) : -1;
    part_rows[i] = row;
    const float mine =
        row >= 0 ? p.partials.data[row * p.partials.stride + of_head + dim] : -INFINITY;
    const float now = RunningMax(mine, best, running);
    const float before = i == 0 ? best : running[i - 1];
    keep[i] = Exp(before - now);
    take[i] = Exp(mine - now);
    __syncthreads();
    for (int part = 0; part < count; ++part) {
      const float* from_part = p.partials.data + part_rows[part] * p.partials.stride + of_head;
      if (i < dim) sum = fmaf(sum, keep[part], from_part[i] * take[part]);
      total = fmaf(total, keep[part], from_part[dim + 1] * take[part]);
    }
    best = running[kThreads - 1];
    __syncthreads();  // the arrays may be used again
  }
  if (p.out.data != nullptr) {
    const float value = sum / total;
    if (i < dim) p.out.data[place * p.out.stride + h * dim + i] = value;
    // A head is whole groups: whole warps.
    if (p.split.groups > 0 && i < dim) StoreSplit(p.split, place, (h * dim + i) / 32, value);
    return;
  }
  if (i < dim) state[i] = sum;
  if (i == 0) {
    state[dim] = best;
    state[dim + 1] = total;
  }
}

}  // namespace

void LaunchMerge(Stream stream, const MergeParams& params) {
  const Grid grid = {static_cast<unsigned>(params.rows), static_cast<unsigned>(params.heads)};
  Launch(stream, grid, kThreads, 0, MergeKernel, params);
}

}  // namespace echelon::cuda
