// Rows of floats as the tensor cores take them: each number the sum of two bfloat16 numbers, which
// keeps 16 bits of it (an error of at most 2^-18 of its size), in the order of mma's second
// operand, and the sum of each group of 32, for weights with a minimum. One thread for a row's
// group.

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_layout.h"

namespace echelon::cuda {

namespace {

constexpr int kThreads = 128;

struct SplitRowsParams {
  Rows x;
  int32_t lead;
  SplitRows to;
};

__global__ void __launch_bounds__(kThreads) SplitRowsKernel(SplitRowsParams p) {
  const int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x, token = blockIdx.y;
  if (group >= p.to.groups) return;
  const float* row = p.x.data + token * p.x.stride;
  const int64_t tile = token / kTokenTile, in_tile = token % kTokenTile;
  char* to = p.to.pairs + (tile * p.to.groups + group) * kSplitTileBytes;
  float total = 0.0f;
#pragma unroll
  for (int t = 0; t < kGroup / kChunk; ++t) {
    Bytes16 first, second;
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      uint32_t highs = 0, lows = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t col = group * kGroup + ElementAt(t, 2 * i + half) - p.lead;
        const float value = col >= 0 && col < p.x.cols ? row[col] : 0.0f;
        const float high = Bf16Of(value), low = Bf16Of(value - high);
        total += high + low;
        highs |= (std::bit_cast<uint32_t>(high) >> 16) << (16 * half);
        lows |= (std::bit_cast<uint32_t>(low) >> 16) << (16 * half);
      }
      first.word[i] = highs;
      second.word[i] = lows;
    }
    char* at = to + (in_tile * 4 + t) * 16;
    *reinterpret_cast<Bytes16*>(at) = first;
    *reinterpret_cast<Bytes16*>(at + kSplitTileBytes / 2) = second;
  }
  p.to.totals[(tile * p.to.groups + group) * kTokenTile + in_tile] = total;
}

}  // namespace

void LaunchSplitRows(Stream stream, Rows x, int32_t lead, const SplitRows& to) {
  const Grid grid = {static_cast<unsigned>((to.groups + kThreads - 1) / kThreads),
                     static_cast<unsigned>(x.rows)};
  Launch(stream, grid, kThreads, 0, SplitRowsKernel, SplitRowsParams{x, lead, to});
}

}  // namespace echelon::cuda
