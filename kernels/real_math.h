#pragma once
// exp, sin and cos in double by plain arithmetic: the C library's differ in the last bit between
// versions and processors, and the bits of a model's output must not. Within 2 units in the last
// place of double over the ranges a model uses (sin, cos: |x| < 2^20).

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"

namespace echelon {

ECHELON_HD inline double RealExp(double x) {
  if (!(x > -708.0)) return x != x ? x : 0.0;  // below: a subnormal double, zero for a softmax
  if (x > 709.0) return HUGE_VAL;
  // x = n ln 2 + r, |r| <= 0.35; ln 2 in two parts, the first with 21 zero bits at its end.
  const double n = std::nearbyint(x * 1.44269504088896338700e+00);
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  // Taylor: the first term left out is 0.35^14 / 14! = 5e-18.
  double sum = 1.0 / 6227020800.0;
  for (const double term :
       {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
        1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0}) {
    sum = sum * r + term;
  }
  return sum * std::bit_cast<double>(static_cast<uint64_t>(1023 + static_cast<int>(n)) << 52);
}

struct SinCos {
  double sin, cos;
};

ECHELON_HD inline SinCos RealSinCos(double x) {
  // x = n pi/2 + r; pi/2 in three parts of 33 bits, so that n * part is exact for n < 2^20.
  const double n = std::nearbyint(x * 6.36619772367581382433e-01);
  const double r = ((x - n * 1.57079632673412561417e+00) - n * 6.07710050630396597660e-11) -
                   n * 2.02226624871116645580e-21;
  const double z = r * r;
  // Taylor to r^17 and r^16: the first terms left out are 0.79^19 / 19! = 1e-19, 0.79^18 / 18!.
  double s = 1.0 / 355687428096000.0;
  for (const double term : {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0,
                            1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0}) {
    s = s * z + term;
  }
  s = r + r * (z * s);
  double c = 1.0 / 20922789888000.0;
  for (const double term : {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
                            1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0}) {
    c = c * z + term;
  }
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

}  // namespace echelon
