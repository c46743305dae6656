// Puts partial attention together, in the order given: state = state * keep + part * take, with
// keep = e^(best before - best now), take = e^(part's best - best now). One block for a row and a
// head. The running maximum of 256 parts is found side by side (a maximum has no rounding), their
// factors too; the sums themselves go part by part, a thread a dimension. A state that was stored
// and continued gives the same bits as one that went on.
//
// A long context has hundreds of parts and few blocks, so what counts is how soon a part is there:
// they are copied to shared memory 48 ahead of the sums (of heads of 128 that is 25 KB).

#include <math.h>

#include "kernels/cuda/split_rows.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = 256;  // parts at once, and at least the dimensions of a head
constexpr int kWarps = kThreads / 32;
constexpr int kStages = 4, kStageParts = 16;

// running[i] = max(carry, best[0..i]) for the first `count` threads' values.
__device__ float RunningMax(float value, float carry, int count, float* running) {
  const int i = static_cast<int>(threadIdx.x);
  value = fmaxf(value, carry);
  for (int distance = 1; distance < count; distance *= 2) {
    running[i] = value;
    __syncthreads();
    if (i >= distance) value = fmaxf(value, running[i - distance]);
    __syncthreads();
  }
  running[i] = value;
  __syncthreads();
  return value;
}

// Begins to copy parts [first, first + 16) of `count` to a stage, a warp a part: of the head the
// sums, best and total of each.
__device__ void CopyParts(const MergeParams& p, const int32_t* rows, int first, int count,
                          int64_t of_head, float* stage) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int floats = p.head_dim + 2,
            end = first + kStageParts < count ? first + kStageParts : count;
  for (int part = first + warp; part < end; part += kWarps) {
    const float* from = p.partials.data + rows[part] * p.partials.stride + of_head;
    float* to = stage + (part - first) * floats;
    for (int i = lane; i < floats; i += 32) CopyAsync4(to + i, from + i);
  }
}

__global__ void __launch_bounds__(kThreads) MergeKernel(MergeParams p) {
  auto* stages = reinterpret_cast<float*>(DynamicShared());  // (kStages, kStageParts, head_dim + 2)
  __shared__ float running[kThreads], keep[kThreads], take[kThreads];
  __shared__ int32_t part_rows[kThreads];
  const int64_t t = blockIdx.x, h = blockIdx.y;
  const int i = static_cast<int>(threadIdx.x), dim = p.head_dim;
  const int64_t place = p.row_of != nullptr ? p.row_of[t] : t;
  if (place < 0) return;  // the whole block: it fills up
  const int64_t of_head = h * (dim + 2);
  const int stage_floats = kStageParts * (dim + 2);
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
    __syncthreads();
    for (int ahead = 0; ahead < kStages - 1; ++ahead) {
      CopyParts(p, part_rows, ahead * kStageParts, count, of_head, stages + ahead * stage_floats);
      EndCopies();
    }
    const float now = RunningMax(mine, best, count, running);
    const float before = i == 0 ? best : running[i - 1];
    keep[i] = Exp(before - now);
    take[i] = Exp(mine - now);
    for (int first = 0; first < count; first += kStageParts) {
      AwaitCopies<kStages - 2>();
      __syncthreads();  // all have the parts, and are done with those whose stage is next
      const int ahead = first + (kStages - 1) * kStageParts;
      CopyParts(p, part_rows, ahead, count, of_head,
                stages + ahead / kStageParts % kStages * stage_floats);
      EndCopies();
      const float* from_part = stages + first / kStageParts % kStages * stage_floats;
      const int parts = count - first < kStageParts ? count - first : kStageParts;
      if (i >= dim) continue;
#pragma unroll 4
      for (int part = 0; part < parts; ++part, from_part += dim + 2) {
        sum = fmaf(sum, keep[first + part], from_part[i] * take[first + part]);
        total = fmaf(total, keep[first + part], from_part[dim + 1] * take[first + part]);
      }
    }
    best = running[count - 1];
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
  // 66 KiB at 256 dimensions.
  const size_t shared = size_t{kStages} * kStageParts * (params.head_dim + 2) * sizeof(float);
  Launch(stream, grid, kThreads, shared, MergeKernel, params);
}

}  // namespace echelon::cuda
