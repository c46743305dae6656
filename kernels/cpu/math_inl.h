#pragma once
// Functions of 16 lanes. The same polynomial whatever the instruction set: same bits.

#include <cstdint>

namespace echelon::cpu {
namespace {

// e^x within 2 units in the last place; 0 below -87.3 (where float has no normal numbers), e^88.3
// above 88.3. NaN stays NaN.
template <typename V>
typename V::F Exp(typename V::F x) {
  using F = typename V::F;
  const F low = V::Set(-87.3f);
  const F clamped = V::Min(V::Set(88.3f), V::Max(low, x));
  // x = n ln 2 + r, |r| <= 0.347; ln 2 = 0.693359375 (9 bits: n times it is exact) - 2.12e-4.
  const F n = V::Round(V::Mul(clamped, V::Set(1.44269504088896341f)));
  F r = V::Fma(n, V::Set(-0.693359375f), clamped);
  r = V::Fma(n, V::Set(2.12194440054690583e-4f), r);
  // Taylor to r^7: the first term left out is 0.347^8 / 8! = 5e-9, a twelfth of float's rounding.
  F sum = V::Set(1.0f / 5040.0f);
  sum = V::Fma(sum, r, V::Set(1.0f / 720.0f));
  sum = V::Fma(sum, r, V::Set(1.0f / 120.0f));
  sum = V::Fma(sum, r, V::Set(1.0f / 24.0f));
  sum = V::Fma(sum, r, V::Set(1.0f / 6.0f));
  sum = V::Fma(sum, r, V::Set(0.5f));
  sum = V::Fma(sum, r, V::Set(1.0f));
  sum = V::Fma(sum, r, V::Set(1.0f));
  return V::ZeroBelow(V::Mul(sum, V::Pow2(n)), x, low);
}

// x / (1 + e^-x)
template <typename V>
typename V::F Silu(typename V::F x) {
  const auto e = Exp<V>(V::Sub(V::Zero(), x));
  return V::Div(x, V::Add(V::Set(1.0f), e));
}

// 0.5 x (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
template <typename V>
typename V::F GeluTanh(typename V::F x) {
  const auto cube = V::Mul(V::Mul(x, x), x);
  const auto inner = V::Fma(V::Set(0.044715f), cube, x);
  const auto e = Exp<V>(V::Mul(V::Set(-2.0f * 0.797884560802865f), inner));
  return V::Div(x, V::Add(V::Set(1.0f), e));
}

}  // namespace
}  // namespace echelon::cpu
