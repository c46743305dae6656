#pragma once
// exp and log of our own, in double, from additions, multiplications and one division in a fixed
// order: the same bits on every machine and libm, so that a replayed draw is the draw it was. Pure
// functions, any thread; constexpr, so that kernels of a device may call them.

#include <bit>
#include <cstdint>

namespace echelon {

// Weights in integers: mass of a token relative to the most likely one. Sums of masses are exact
// and independent of their order, so neither threads nor tp can change what top_p keeps or a
// log-probability. 2^24 tokens (the greatest vocabulary) of the greatest mass sum to 2^63.
inline constexpr int kMassBits = 39;

// 2^39 * e^x rounded to nearest, x <= 0: a logit minus the maximum. 0 below about -27.7, and for
// NaN. Without branches, so that loops over a vocabulary become vector code.
constexpr uint64_t MassOf(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42fefa3800p-1;  // 42 bits of ln 2: exact times |k| < 2^11
  constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  constexpr double kToInteger = 0x1.8p52;  // added, a double's low bits are its rounded integer
  x = x > -50.0 ? x : -50.0;               // 2^39 * e^-50 = 1e-10; a NaN fails the test too
  const double shifted = x * kLog2E + kToInteger;
  const double k = shifted - kToInteger;
  const double r = (x - k * kLn2High) - k * kLn2Low;  // |r| <= 0.347
  // Taylor to r^11 / 11!: the rest is below 0.347^12 / 12! = 6e-15, 2^39 times that 0.004.
  constexpr double kCoefficients[] = {
      1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0,
      1.0 / 120.0,      1.0 / 24.0,      1.0 / 6.0,      0.5,           1.0,          1.0};
  double sum = 0.0;
  for (const double c : kCoefficients) sum = sum * r + c;
  // 2^(k + 39): only the low 12 bits of the shifted integer reach the exponent.
  const auto scale =
      std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + (1023 + kMassBits)) << 52);
  constexpr double kRound = 0x1.0p52;
  return std::bit_cast<uint64_t>(sum * scale + kRound) & ((uint64_t{1} << 52) - 1);
}

// Natural logarithm of a normal x > 0, to 2 ulp.
constexpr double ExactLog(double x) {
  constexpr double kLn2High = 0x1.62e42fefa3800p-1;
  constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  const auto bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  auto m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 artanh(s), s = (m - 1) / (m + 1), |s| <= 0.1716: s^22 / 23 is below 1e-18.
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double sum = 0.0;
  for (int odd = 21; odd >= 1; odd -= 2) sum = sum * s2 + 1.0 / odd;
  const double n = exponent;
  return n * kLn2High + (2.0 * s * sum + n * kLn2Low);
}

}  // namespace echelon
