#pragma once
// The CPU backend's kernels besides the product (cpu_twin.h), written plainly, one number after the
// other: the same roundings in the same order, so that every instruction set must give these very
// bits. This is the specification of the bits; what they approximate is the reference backend's.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace echelon::test {

float ExpTwin(float x);
float SiluTwin(float x);
float GeluTanhTwin(float x);
// Element i is added to lane i mod 16; then lanes i + 8, i + 4, i + 2, i + 1 to lane i.
float SumLanesTwin(const float* lanes);

std::vector<float> RmsNormTwin(std::span<const float> x, const float* weight, float eps);
std::vector<float> AddResidualTwin(std::span<const float> residual, const float* delta, float keep,
                                   const float* post_norm, float eps);
std::vector<float> RotateTwin(std::span<const float> head, const float* cos, const float* sin,
                              bool interleaved);

// 32 numbers as x = scale * code, codes of 15 bits.
struct CodedGroup {
  int codes[32] = {};
  float scale = 0.0f;
  float sum = 0.0f;  // scale * sum of codes
};
CodedGroup QuantiseTwin(std::span<const float> values);  // at most 32, the others zero

// What a split leaves of a query vector: sums of exp(score - best) * value, best, total.
struct SplitState {
  std::vector<float> sums;  // (D)
  float best = 0.0f, total = 0.0f;
};
// A vector that sees positions [begin, end) of a split; keys and values (256, D) before they are
// rounded to `type`.
SplitState AttendTwin(KvType type, std::span<const float> query, const std::vector<float>& keys,
                      const std::vector<float>& values, int begin, int end, float scale);
SplitState MergeTwin(const SplitState& state, const SplitState& later);

}  // namespace echelon::test
