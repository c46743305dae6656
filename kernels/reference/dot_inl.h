#pragma once
// The body of DotRows for vectors of `kWidth` doubles; included by one file per instruction set.

#include <cstdint>

#include "kernels/reference/dot.h"

namespace echelon::reference {
namespace {

template <int kWidth>
struct VectorOf {
  typedef double Type __attribute__((vector_size(kWidth * sizeof(double)), aligned(8)));
};

// kTokens rows at once: enough independent sums to hide the latency of an addition.
template <int kWidth, int kTokens>
void DotTile(const double* w, const double* x, int64_t stride, int64_t cols, double* out) {
  using Vector = typename VectorOf<kWidth>::Type;
  constexpr int kParts = kLanes / kWidth;
  Vector sums[kTokens][kParts] = {};
  for (int64_t k = 0; k < cols; k += kLanes) {
    for (int p = 0; p < kParts; ++p) {
      const Vector weights = *reinterpret_cast<const Vector*>(w + k + p * kWidth);
      for (int t = 0; t < kTokens; ++t) {
        sums[t][p] += weights * *reinterpret_cast<const Vector*>(x + t * stride + k + p * kWidth);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    double l[kLanes];
    for (int j = 0; j < kLanes; ++j) l[j] = sums[t][j / kWidth][j % kWidth];
    out[t] = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
  }
}

template <int kWidth>
void DotRows(const double* w, const double* x, int64_t stride, int64_t tokens, int64_t cols,
             double* out) {
  constexpr int kTile = kWidth;  // kWidth tokens * (8 / kWidth) parts = 8 accumulators
  int64_t t = 0;
  for (; t + kTile <= tokens; t += kTile) {
    DotTile<kWidth, kTile>(w, x + t * stride, stride, cols, out + t);
  }
  for (; t < tokens; ++t) DotTile<kWidth, 1>(w, x + t * stride, stride, cols, out + t);
}

}  // namespace
}  // namespace echelon::reference
