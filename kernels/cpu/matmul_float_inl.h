#pragma once
// The product with float panels (F32, F16, BF16). A lane owns a weight row; column k is added to
// sum k mod 4 of its row, and the four are added at the end: the same for every number of tokens.
//
// Few tokens: the four sums of a token side by side, since a weight is read once as it comes from
// memory. More: one of the four after the other, so that a tile has registers for more tokens and a
// weight, once loaded and widened, serves them all.

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/matmul_common_inl.h"

namespace echelon::cpu {
namespace {

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
  for (int i = 0; i < kTile; ++i) {
    const auto sum = V::Add(V::Add(sums[i][0], sums[i][1]), V::Add(sums[i][2], sums[i][3]));
    StoreSum<V>(args, part, p, t + i, sum);
  }
}

// Columns of a block: the inputs of a tile, 8 tokens of 2 KiB, then stay in the first-level cache
// while four passes go over them.
constexpr int64_t kFloatBlock = 512;
// Weights of a pass are asked for this many of its columns, 3 KiB of float16 numbers, before.
constexpr int kColumnsAhead = 12;

// Columns k, k + 4, ... below `end` of tokens [t, t + kTokens) and panels [p, p + kPanels), added
// to the sums (kPanels, kTokens, 16) that wait in memory. `ahead`: bytes from a weight to one of a
// later pair of panels, which is asked for too.
template <typename V, typename Load, int kPanels, int kTokens>
[[gnu::always_inline]] inline void AddEveryFourth(const MatMulArgs& args, const PanelPart& part,
                                                  int64_t p, int64_t t, int64_t k, int64_t end,
                                                  int64_t ahead, float* waiting) {
  typename V::F sums[kPanels][kTokens];
#pragma GCC unroll 2
  for (int n = 0; n < kPanels; ++n) {
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      sums[n][i] = V::Load(waiting + (n * kTokens + i) * kPanelRows);
    }
  }
  const std::byte* panel = part.data + p * part.panel_bytes;
  const float* x = args.x + t * args.x_stride;
#pragma GCC unroll 1
  for (; k < end; k += 4) {
    typename V::F w[kPanels];
#pragma GCC unroll 2
    for (int n = 0; n < kPanels; ++n) {
      const std::byte* at = panel + n * part.panel_bytes + k * kPanelRows * Load::kBytes;
      w[n] = Load::At(at, 0);
      __builtin_prefetch(at + ahead, 0, 2);
      __builtin_prefetch(at + kColumnsAhead * 4 * kPanelRows * Load::kBytes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      const auto value = V::Set(x[i * args.x_stride + k]);
#pragma GCC unroll 2
      for (int n = 0; n < kPanels; ++n) sums[n][i] = V::Fma(w[n], value, sums[n][i]);
    }
  }
#pragma GCC unroll 2
  for (int n = 0; n < kPanels; ++n) {
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      V::Store(waiting + (n * kTokens + i) * kPanelRows, sums[n][i]);
    }
  }
}

template <typename V, typename Load, int kPanels, int kTokens>
void WideFloatTile(const MatMulArgs& args, const PanelPart& part, int64_t p, int64_t t,
                   int64_t ahead) {
  alignas(64) float waiting[4][kPanels * kTokens * kPanelRows] = {};
  for (int64_t begin = 0; begin < part.cols; begin += kFloatBlock) {
    const int64_t end = begin + kFloatBlock < part.cols ? begin + kFloatBlock : part.cols;
    for (int j = 0; j < 4; ++j) {
      AddEveryFourth<V, Load, kPanels, kTokens>(args, part, p, t, begin + j, end, ahead,
                                                waiting[j]);
    }
  }
  for (int n = 0; n < kPanels; ++n) {
    for (int i = 0; i < kTokens; ++i) {
      const int64_t at = (n * kTokens + i) * kPanelRows;
      const auto first = V::Add(V::Load(waiting[0] + at), V::Load(waiting[1] + at));
      const auto second = V::Add(V::Load(waiting[2] + at), V::Load(waiting[3] + at));
      StoreSum<V>(args, part, p + n, t + i, V::Add(first, second));
    }
  }
}

// All tokens of the range against kPanels panels, in tiles of equal size but for one token.
template <typename V, typename Load, int kPanels>
void WideFloatTiles(const MatMulArgs& args, const PanelPart& part, int64_t p,
                    const MatMulRange& range) {
  const int64_t tokens = range.token_end - range.token_begin;
  const int64_t count = (tokens + V::kFloatTokens - 1) / V::kFloatTokens;
  int64_t t = range.token_begin;
  for (int64_t tile = 0; tile < count; ++tile) {
    const int64_t size = (range.token_end - t + count - tile - 1) / (count - tile);
    // (The next panels are this thread's too, but at the end of its share.)
    const int64_t ahead = tile == 0 ? kPanels * part.panel_bytes : 0;
    WithSize<V::kFloatTokens>(size, [&]<int kTokens>() {
      WideFloatTile<V, Load, kPanels, kTokens>(args, part, p, t, ahead);
    });
    t += size;
  }
}

template <typename V, typename Load>
void FloatPanels(const MatMulArgs& args, const PanelPart& part, const MatMulRange& range) {
  const int64_t tokens = range.token_end - range.token_begin;
  if (tokens <= V::kFloatFew) {
    for (int64_t t = range.token_begin; t < range.token_end; t += V::kFloatTile) {
      const int64_t left = range.token_end - t;
      WithSize<V::kFloatTile>(left < V::kFloatTile ? left : V::kFloatTile, [&]<int kTile>() {
        for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
          FloatTile<V, Load, kTile>(args, part, p, t);
        }
      });
    }
    return;
  }
  int64_t p = range.panel_begin;
  for (; p + V::kFloatPanels <= range.panel_end; p += V::kFloatPanels) {
    WideFloatTiles<V, Load, V::kFloatPanels>(args, part, p, range);
  }
  for (; p < range.panel_end; ++p) WideFloatTiles<V, Load, 1>(args, part, p, range);
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
