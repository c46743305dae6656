#pragma once
// The multiply-adds of a product's largest tile, factors from the first-level cache: what is left
// out is everything else (scales, sums in memory, codes that are unpacked).

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
  constexpr int kTokens = V::kTokensMax, kSums = 4 * V::kFloatTile;
  alignas(64) int16_t words[64] = {1, 2, 3};
  alignas(64) float floats[64] = {1.0f, 2.0f, 3.0f};
  const auto* factors = words;
  Peak peak;
  peak.dots = Rate(32.0 * kTokens * V::kPanelsMax, [&] {
    typename V::I sums[kTokens][V::kPanelsMax];
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      for (int p = 0; p < V::kPanelsMax; ++p) sums[i][p] = V::ZeroInt();
    }
#pragma GCC unroll 1
    for (int round = 0; round < kRounds; ++round) {
      asm volatile("" : "+r"(factors));  // they are loaded again, products made again
      typename V::I w[V::kPanelsMax];
      for (int p = 0; p < V::kPanelsMax; ++p) w[p] = V::LoadWords(factors + 32 * p);
#pragma GCC unroll 8
      for (int i = 0; i < kTokens; ++i) {
        const auto both = V::SetPair(factors + 2 * i);
        for (int p = 0; p < V::kPanelsMax; ++p) sums[i][p] = V::Dot(sums[i][p], w[p], both);
      }
    }
    auto total = V::Zero();
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      for (int p = 0; p < V::kPanelsMax; ++p) total = V::Add(total, V::ToFloat(sums[i][p]));
    }
    V::Store(floats, total);
  });
  for (float& value : floats) value = 1.0f;
  const auto* numbers = floats;
  peak.fmas = Rate(16.0 * kSums, [&] {
    typename V::F sums[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = V::Zero();
#pragma GCC unroll 1
    for (int round = 0; round < kRounds; ++round) {
      asm volatile("" : "+r"(numbers));
      const auto w = V::Load(numbers);
#pragma GCC unroll 16
      for (int i = 0; i < kSums; ++i) sums[i] = V::Fma(w, V::Set(numbers[i % 16]), sums[i]);
    }
    auto total = V::Zero();
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) total = V::Add(total, sums[i]);
    V::Store(floats, V::Min(total, V::Set(1.0f)));
  });
  return peak;
}

}  // namespace
}  // namespace echelon::bench
