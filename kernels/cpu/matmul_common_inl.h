#pragma once
// What the products with quantised and with float panels share.

#include <cstdint>
#include <utility>

#include "kernels/cpu/kernels.h"

namespace echelon::cpu {
namespace {

// Where the weights come from memory: lines are asked for twice, 8 KiB ahead into the
// second-level cache (some 400 ns before their turn), 2 KiB ahead into the first.
constexpr int kPrefetchFar = 8192, kPrefetchNear = 2048;
template <int kBytes>
[[gnu::always_inline]] inline void Prefetch(const std::byte* at) {
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(at + kPrefetchFar + i, 0, 2);
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(at + kPrefetchNear + i);
}

// body.operator()<n>() for the n in [1, kMax] that `size` is.
template <int kMax, typename Body>
void WithSize(int64_t size, Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) {
    ((size == i + 1 ? body.template operator()<i + 1>() : void()), ...);
  }
  (std::make_integer_sequence<int, kMax>{});
}

template <typename V>
[[gnu::always_inline]] inline void StoreSum(const MatMulArgs& args, const PanelPart& part,
                                            int64_t p, int64_t t, typename V::F sum) {
  const int64_t row = p * kPanelRows, n = part.row_begin + row;
  float* out = args.out + t * args.out_stride + n;
  if (part.rows - row >= kPanelRows) {
    if (args.bias != nullptr) sum = V::Add(sum, V::Load(args.bias + n));
    V::Store(out, sum);
  } else {
    const int count = static_cast<int>(part.rows - row);
    if (args.bias != nullptr) sum = V::Add(sum, V::LoadN(args.bias + n, count));
    V::StoreN(out, sum, count);
  }
}

}  // namespace
}  // namespace echelon::cpu
