#pragma once
// The product with float panels (F32, F16, BF16). A lane owns a weight row; column k is added to
// sum k mod 4 of its row, and the four are added at the end: the same for every number of tokens.

#include <cstdint>

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

// Tokens [t, t + kTile) against panel p.
template <typename V, typename Load, int kTile>
void FloatTile(const MatMulArgs& args, const PanelPart& part, int64_t p, int64_t t) {
  const std::byte* panel = part.data + p * part.panel_bytes;
  const float* x = args.x + t * args.x_stride;
  typename V::F sums[kTile][4];
  for (int i = 0; i < kTile; ++i) {
    for (int j = 0; j < 4; ++j) sums[i][j] = V::Zero();
  }
  int64_t k = 0;
  constexpr int kStepBytes = 4 * kPanelRows * Load::kBytes;
  for (; k + 4 <= part.cols; k += 4) {
    Prefetch<kStepBytes>(panel + k / 4 * kStepBytes);
    for (int j = 0; j < 4; ++j) {
      const auto w = Load::At(panel, (k + j) * kPanelRows);
      for (int i = 0; i < kTile; ++i) {
        sums[i][j] = V::Fma(w, V::Set(x[i * args.x_stride + k + j]), sums[i][j]);
      }
    }
  }
  for (int j = 0; k + j < part.cols; ++j) {
    const auto w = Load::At(panel, (k + j) * kPanelRows);
    for (int i = 0; i < kTile; ++i) {
      sums[i][j] = V::Fma(w, V::Set(x[i * args.x_stride + k + j]), sums[i][j]);
    }
  }
  const int64_t left = part.rows - p * kPanelRows;
  const int count = static_cast<int>(left < kPanelRows ? left : kPanelRows);
  const int64_t n = part.row_begin + p * kPanelRows;
  for (int i = 0; i < kTile; ++i) {
    auto sum = V::Add(V::Add(sums[i][0], sums[i][1]), V::Add(sums[i][2], sums[i][3]));
    if (args.bias != nullptr) sum = V::Add(sum, V::LoadN(args.bias + n, count));
    V::StoreN(args.out + (t + i) * args.out_stride + n, sum, count);
  }
}

template <typename V, typename Load>
void FloatPanels(const MatMulArgs& args, const PanelPart& part, const MatMulRange& range) {
  int64_t t = range.token_begin;
  const auto panels = [&]<int kTile>() {
    for (; t + kTile <= range.token_end; t += kTile) {
      for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
        FloatTile<V, Load, kTile>(args, part, p, t);
      }
    }
  };
  panels.template operator()<V::kFloatTile>();
  panels.template operator()<1>();
}

template <typename V>
struct LoadF32 {
  static constexpr int kBytes = 4;
  static typename V::F At(const std::byte* panel, int64_t element) {
    return V::Load(reinterpret_cast<const float*>(panel) + element);
  }
};
template <typename V>
struct LoadF16 {
  static constexpr int kBytes = 2;
  static typename V::F At(const std::byte* panel, int64_t element) {
    return V::LoadHalf(reinterpret_cast<const uint16_t*>(panel) + element);
  }
};
template <typename V>
struct LoadBF16 {
  static constexpr int kBytes = 2;
  static typename V::F At(const std::byte* panel, int64_t element) {
    return V::LoadBfloat16(reinterpret_cast<const uint16_t*>(panel) + element);
  }
};

}  // namespace
}  // namespace echelon::cpu
