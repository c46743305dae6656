#pragma once
// A row's group of 32 as the tensor cores take it: each number the sum of two bfloat16 numbers,
// which keeps 16 bits of it (an error of at most 2^-18 of its size), in the order of mma's second
// operand, and the sum of the group, for weights with a minimum. Whoever computes a row may store
// it so too.

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_layout.h"

namespace echelon::cuda {

// By a whole warp: each lane an element of the group, 0 where the row has ended. Nothing where `to`
// is empty or has fewer groups, for the whole warp.
__device__ inline void StoreSplit(const SplitRows& to, int64_t token, int64_t group, float value) {
  if (group >= to.groups) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t tile = token / kTokenTile, in_tile = token % kTokenTile;
  const float high = Bf16Of(value), low = Bf16Of(value - high);
  char* at = to.pairs + (tile * to.groups + group) * kSplitTileBytes +
             (in_tile * 4 + ChunkOf(lane)) * 16 + PlaceOf(lane) * 2;
  *reinterpret_cast<uint16_t*>(at) = static_cast<uint16_t>(std::bit_cast<uint32_t>(high) >> 16);
  *reinterpret_cast<uint16_t*>(at + kSplitTileBytes / 2) =
      static_cast<uint16_t>(std::bit_cast<uint32_t>(low) >> 16);
  const float total = WarpSum(high + low);
  if (lane == 0) to.totals[(tile * to.groups + group) * kTokenTile + in_tile] = total;
}

}  // namespace echelon::cuda
