#pragma once
// The product of the CPU backend written plainly, one number after the other: the same roundings in
// the same order as its kernels, so that every instruction set must give these very bits.

#include <vector>

#include "kernels/backend.h"

namespace echelon::test {

// x (tokens, K) times `matrix` (N, K): (tokens, N). `bias` (N) or null.
std::vector<float> CpuMatMulTwin(const HostMatrix& matrix, const std::vector<float>& x,
                                 int64_t tokens, const float* bias);

}  // namespace echelon::test
