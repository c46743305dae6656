#pragma once
// Ops on single rows, and the quantisation of activations.

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/math_inl.h"

namespace echelon::cpu {
namespace {

// Calls body(i, n) for the 16-lane pieces of [0, count), n = 16 but for the last.
template <typename Body>
inline void ForPieces(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) body(i, 16);
  if (i < count) body(i, static_cast<int>(count - i));
}

template <typename V>
typename V::F LoadPiece(const float* p, int n) {
  return n == 16 ? V::Load(p) : V::LoadN(p, n);
}
template <typename V>
void StorePiece(float* p, typename V::F v, int n) {
  n == 16 ? V::Store(p, v) : V::StoreN(p, v, n);
}

// 1 / sqrt(mean(x^2) + eps), of the lanes' sums of squares.
template <typename V>
float InverseRootOf(typename V::F squares, float eps, int64_t n) {
  return 1.0f / __builtin_sqrtf(V::SumLanes(squares) / static_cast<float>(n) + eps);
}

// Lane j sums elements j, j + 16, ...
template <typename V>
float InverseRoot(const float* x, float eps, int64_t n) {
  auto squares = V::Zero();
  ForPieces(n, [&](int64_t i, int count) {
    const auto v = LoadPiece<V>(x + i, count);
    squares = V::Fma(v, v, squares);
  });
  return InverseRootOf<V>(squares, eps, n);
}

template <typename V>
typename V::F ScaledPiece(const float* x, typename V::F factor, const float* weight, int64_t i,
                          int count) {
  return V::Mul(V::Mul(LoadPiece<V>(x + i, count), factor), LoadPiece<V>(weight + i, count));
}

// out = x * factor * weight.
template <typename V>
void ScaleRow(const float* x, float factor, const float* weight, int64_t n, float* out) {
  const auto all = V::Set(factor);
  ForPieces(n, [&](int64_t i, int count) {
    StorePiece<V>(out + i, ScaledPiece<V>(x, all, weight, i, count), count);
  });
}

template <typename V>
void RmsNormRow(const float* x, const float* weight, float eps, int64_t n, float* out) {
  ScaleRow<V>(x, InverseRoot<V>(x, eps, n), weight, n, out);
}

template <typename V>
void AddResidualRow(float* residual, const float* delta, float keep, const float* post_norm,
                    float eps, int64_t n) {
  const auto kept = V::Set(keep);
  const auto factor = V::Set(post_norm != nullptr ? InverseRoot<V>(delta, eps, n) : 1.0f);
  ForPieces(n, [&](int64_t i, int count) {
    const auto change = post_norm != nullptr ? ScaledPiece<V>(delta, factor, post_norm, i, count)
                                             : LoadPiece<V>(delta + i, count);
    StorePiece<V>(residual + i, V::Fma(LoadPiece<V>(residual + i, count), kept, change), count);
  });
}

// The sum of the terms goes into the residual from registers, its squares into the norm.
template <typename V>
void AddResidualNormRow(const ResidualNormRow& row) {
  const auto kept = V::Set(row.keep);
  auto squares = V::Zero();
  const auto add = [&](int64_t i, int count, typename V::F change) {
    // 0 * residual would not be 0 for every residual.
    const auto value =
        row.keep == 0.0f ? change : V::Fma(LoadPiece<V>(row.residual + i, count), kept, change);
    StorePiece<V>(row.residual + i, value, count);
    squares = V::Fma(value, value, squares);
  };
  const auto sum = [&](int64_t i, int count) {
    auto value = LoadPiece<V>(row.terms[0] + row.at + i, count);
    for (size_t term = 1; term < row.term_count; ++term) {
      value = V::Add(value, LoadPiece<V>(row.terms[term] + row.at + i, count));
    }
    return value;
  };
  if (row.post_norm == nullptr) {
    ForPieces(row.n, [&](int64_t i, int count) { add(i, count, sum(i, count)); });
  } else {
    ForPieces(row.n,
              [&](int64_t i, int count) { StorePiece<V>(row.out + i, sum(i, count), count); });
    const auto factor = V::Set(InverseRoot<V>(row.out, row.eps, row.n));
    ForPieces(row.n, [&](int64_t i, int count) {
      add(i, count, ScaledPiece<V>(row.out, factor, row.post_norm, i, count));
    });
  }
  ScaleRow<V>(row.residual, InverseRootOf<V>(squares, row.eps, row.n), row.norm, row.n, row.out);
}

template <typename V>
void GatedRow(const float* gate, const float* up, GatedKind kind, int64_t n, float* out) {
  ForPieces(n, [&](int64_t i, int count) {
    const auto g = LoadPiece<V>(gate + i, count);
    const auto activated = kind == GatedKind::kSilu ? Silu<V>(g) : GeluTanh<V>(g);
    StorePiece<V>(out + i, V::Mul(activated, LoadPiece<V>(up + i, count)), count);
  });
}

// Below it the inverse of a scale would leave float's range: such numbers count as zero.
constexpr float kLeastCoded = 1e-30f;

// One group of 32, number `at` of the rows: scale = largest magnitude / 16256, codes to the
// nearest, ties to even.
template <typename V>
void QuantiseGroup(const float* x, const QuantisedRows& out, int64_t at) {
  const auto a = V::Load(x), b = V::Load(x + 16);
  const float most = V::MaxLanes(V::Max(V::Abs(a), V::Abs(b)));
  const auto inverse = V::Set(most < kLeastCoded ? 0.0f : kCodeLimit / most);
  const float scale = most < kLeastCoded ? 0.0f : most / kCodeLimit;
  const auto code_a = V::Round(V::Mul(a, inverse)), code_b = V::Round(V::Mul(b, inverse));
  V::StoreInt16(out.codes + at * kGroup, code_a, code_b);
  // Whole numbers below 2^24: exact in any order.
  const float sum_a = V::SumLanes(code_a), sum_b = V::SumLanes(code_b);
  out.scales[at] = scale;
  out.sums[at] = scale * (sum_a + sum_b);
  if (out.bytes != nullptr) {
    V::StoreSplitCodes(out.bytes + at * 2 * kGroup, code_a, code_b);
    out.half_sums[2 * at] = static_cast<int32_t>(sum_a);
    out.half_sums[2 * at + 1] = static_cast<int32_t>(sum_b);
  }
}

template <typename V>
void QuantiseRows(const float* x, int64_t stride, int64_t cols, int lead, int64_t begin,
                  int64_t end, const QuantisedRows& out) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t g = 0; g < out.groups; ++g) {
      const int64_t first = g * kGroup - lead;  // the column of the group's first element
      const float* group = x + t * stride + first;
      float filled[kGroup];
      if (first < 0 || first + kGroup > cols) {
        for (int64_t k = 0; k < kGroup; ++k) {
          filled[k] = first + k >= 0 && first + k < cols ? x[t * stride + first + k] : 0.0f;
        }
        group = filled;
      }
      QuantiseGroup<V>(group, out, g * out.tokens + t);
    }
  }
}

// (a, b) -> (a cos - b sin, b cos + a sin), the second product rounded first.
inline void RotatePair(float& first, float& second, float cos, float sin) {
  const float a = first, b = second;
  first = __builtin_fmaf(a, cos, -(b * sin));
  second = __builtin_fmaf(b, cos, a * sin);
}

// Loops that the compiler makes vectors of: told that nothing overlaps.
inline void RotateHead(float* __restrict head, const float* __restrict cos,
                       const float* __restrict sin, int head_dim, bool interleaved) {
  const int half = head_dim / 2;
  if (interleaved) {
    for (int i = 0; i < half; ++i) RotatePair(head[2 * i], head[2 * i + 1], cos[i], sin[i]);
    return;
  }
  float* __restrict second = head + half;
  for (int i = 0; i < half; ++i) RotatePair(head[i], second[i], cos[i], sin[i]);
}

// Four sums hide the latency of an addition: the loads alone set the pace.
template <typename V>
float SumRow(const float* values, int64_t n) {
  typename V::F sums[4] = {V::Zero(), V::Zero(), V::Zero(), V::Zero()};
  for (int64_t i = 0; i < n; i += 64) {
    for (int j = 0; j < 4; ++j) sums[j] = V::Add(sums[j], V::Load(values + i + 16 * j));
  }
  return V::SumLanes(V::Add(V::Add(sums[0], sums[1]), V::Add(sums[2], sums[3])));
}

}  // namespace
}  // namespace echelon::cpu
