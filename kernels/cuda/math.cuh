#pragma once
// Float functions and sums of the kernels: fixed order, no approximation instruction, the same bits
// on the device and, under the emulation, on the host.

#include <math.h>

#include <bit>

#include "kernels/cuda/device.cuh"
#include "kernels/host_device.h"

namespace echelon::cuda {

// e^x within 2 units in the last place; 0 below -87.3 (where float has no normal numbers), e^88.3
// above 88.3; exactly 1 at 0. NaN stays NaN. The polynomial of kernels/cpu/math_inl.h.
ECHELON_HD inline float Exp(float x) {
  if (x < -87.3f) return 0.0f;
  const float clamped = x > 88.3f ? 88.3f : x;
  const float n = rintf(clamped * 1.44269504088896341f);
  float r = fmaf(n, -0.693359375f, clamped);
  r = fmaf(n, 2.12194440054690583e-4f, r);
  float sum = 1.0f / 5040.0f;
  sum = fmaf(sum, r, 1.0f / 720.0f);
  sum = fmaf(sum, r, 1.0f / 120.0f);
  sum = fmaf(sum, r, 1.0f / 24.0f);
  sum = fmaf(sum, r, 1.0f / 6.0f);
  sum = fmaf(sum, r, 0.5f);
  sum = fmaf(sum, r, 1.0f);
  sum = fmaf(sum, r, 1.0f);
  if (x != x) return x;
  // 2^n, -126 <= n <= 127, by its bits.
  return sum * std::bit_cast<float>(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}

// x / (1 + e^-x)
ECHELON_HD inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

// 0.5 x (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
ECHELON_HD inline float GeluTanh(float x) {
  const float inner = fmaf(0.044715f, (x * x) * x, x);
  return x / (1.0f + Exp(-2.0f * 0.797884560802865f * inner));
}

ECHELON_HD inline float Gated(bool silu, float gate, float up) {
  return (silu ? Silu(gate) : GeluTanh(gate)) * up;
}

// The nearest bfloat16 number, ties to even, as a float; not for NaN, which may become infinite.
ECHELON_HD inline float Bf16Of(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}
// A number exact in bfloat16, twice.
ECHELON_HD inline uint32_t Bf16Pair(float x) {
  const uint32_t high = std::bit_cast<uint32_t>(x) >> 16;
  return high << 16 | high;
}

// Over the 32 lanes of a warp, the same answer in all of them: pairs at distance 16, 8, 4, 2, 1.
__device__ inline float WarpSum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}
__device__ inline float WarpMax(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Over the threads of a block of kWarps warps: warps in ascending order.
template <int kWarps>
__device__ float BlockSum(float value) {
  __shared__ float of_warp[kWarps];
  value = WarpSum(value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += of_warp[warp];
  __syncthreads();  // of_warp may be used again
  return sum;
}

}  // namespace echelon::cuda
