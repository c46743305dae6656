#pragma once
// As many independent chains as the kernels keep in registers, their second factor from memory as a
// kernel's activations are: what is left out is everything but the multiply-adds.

#include <chrono>
#include <cstdint>

#include "tests/bench/peak.h"

namespace echelon::bench {
namespace {

constexpr int kRounds = 200'000;  // some 2 ms

// Multiply-adds a second of `round`, which makes `macs` of them; the best of five tries.
template <typename Round>
double Rate(double macs, Round round) {
  double best = 0.0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const auto begin = std::chrono::steady_clock::now();
    round();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    const double rate = macs * kRounds / took.count();
    best = rate > best ? rate : best;
  }
  return best;
}

template <typename V>
Peak MeasurePeak() {
  constexpr int kChains = V::kSums;
  alignas(64) int16_t words[64] = {1, 2, 3};
  alignas(64) float floats[64] = {1.0f, 2.0f, 3.0f};
  asm volatile("" ::"r"(words), "r"(floats) : "memory");  // what lies there is not known
  Peak peak;
  peak.dots = Rate(32.0 * kChains, [&] {
    typename V::I sums[kChains];
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) sums[j] = V::ZeroInt();
#pragma GCC unroll 1
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" ::: "memory");  // factors are loaded again, products made again
      const auto w = V::LoadWords(words);
#pragma GCC unroll 24
      for (int j = 0; j < kChains; ++j) sums[j] = V::Dot(sums[j], w, V::SetPair(words + 2 * j));
    }
    auto total = V::Zero();
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) total = V::Add(total, V::ToFloat(sums[j]));
    V::Store(floats, total);
  });
  for (float& value : floats) value = 1.0f;
  peak.fmas = Rate(16.0 * kChains, [&] {
    typename V::F sums[kChains];
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) sums[j] = V::Zero();
#pragma GCC unroll 1
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" ::: "memory");
      const auto w = V::Load(floats);
#pragma GCC unroll 24
      for (int j = 0; j < kChains; ++j) sums[j] = V::Fma(w, V::Set(floats[j]), sums[j]);
    }
    auto total = V::Zero();
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) total = V::Add(total, sums[j]);
    V::Store(floats, V::Min(total, V::Set(1.0f)));
  });
  return peak;
}

}  // namespace
}  // namespace echelon::bench
