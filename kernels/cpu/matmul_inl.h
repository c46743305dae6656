#pragma once
// The micro-kernel of MatMul. A lane owns a weight row and adds its groups in ascending order, so
// that a row of the result has the same bits for every number of tokens. Several tokens share the
// unpacked codes of a group: at 8 tokens and AVX-512 a group of 16 rows costs 128 dot
// instructions, 48 for scales and sums and 14 to unpack, for 4,096 multiply-adds.

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace echelon::cpu {
namespace {

// What the compiler must know of a format; everything else is data.
template <int kCodeMaxValue, bool kHasMinValue, bool kSplitValue, typename ScaleType>
struct PanelFormat {
  static constexpr int kCodeMax = kCodeMaxValue;  // 15: two codes a byte
  static constexpr bool kHasMin = kHasMinValue;
  static constexpr bool kSplit = kSplitValue;  // a scale for 16 columns
  using Scale = ScaleType;                     // uint16_t: float16
  static constexpr int kCodeBytes = kGroup * kPanelRows * (kCodeMax == 15 ? 4 : 8) / 8;
  static constexpr int kScalesPerRow = (kSplit ? 2 : 1) + (kHasMin ? 1 : 0);
  static constexpr int kGroupBytes = kCodeBytes + kPanelRows * kScalesPerRow * int{sizeof(Scale)};
};

// With one token the weights come from memory: the lines of the group that lies 2 KiB ahead (in the
// next panel, near this one's end) are asked for now, some 60 ns before their turn.
constexpr int kPrefetchBytes = 2048;
template <int kGroupBytes>
void Prefetch(const std::byte* group) {
  for (int i = 0; i < kGroupBytes; i += 64) __builtin_prefetch(group + kPrefetchBytes + i);
}

// start + sum over i < n of w[i] . (128 high + low): exact, at most 32 * 255 * 16256 < 2^28.
template <typename L, typename Format, int n>
typename L::I CodeDot(const typename L::I* w, const int8_t* quads, int start) {
  const auto high = L::template Dot<Format::kCodeMax, n>(w, quads, 0);
  const auto low = L::template Dot<Format::kCodeMax, n>(w, quads + kGroup, start);
  return L::template ShiftAdd<kLowBits>(high, low);
}

// Tokens [t, t + kTile) against lanes [lane, lane + L::kLanes) of a panel.
template <typename L, typename Format, int kTile>
void QuantisedTile(const PanelPart& part, const std::byte* panel, int lane, const QuantisedRows& x,
                   int64_t t, typename L::F* sums) {
  using Scale = typename Format::Scale;
  for (int i = 0; i < kTile; ++i) sums[i] = L::Zero();
    // Unrolled over tokens, not over groups: the sums of a tile stay in registers.
#pragma GCC unroll 1
  for (int64_t g = 0; g < part.groups; ++g) {
    const std::byte* group = panel + g * Format::kGroupBytes;
    if constexpr (kTile == 1) Prefetch<Format::kGroupBytes>(group);
    typename L::I w[8];
    L::template Unpack<Format::kCodeMax>(reinterpret_cast<const uint8_t*>(group) + 4 * lane, w);
    const auto* scales = reinterpret_cast<const Scale*>(group + Format::kCodeBytes) + lane;
    const auto scale = L::LoadScale(scales);
#pragma GCC unroll 8
    for (int i = 0; i < kTile; ++i) {
      const int64_t at = (t + i) * x.groups + g;
      const int8_t* quads = x.codes + at * 2 * kGroup;
      const auto x_scale = L::Set(x.scales[at]);
      if constexpr (Format::kSplit) {
        const auto first = CodeDot<L, Format, 4>(w, quads, -part.offset * x.half_sums[2 * at]);
        const auto second =
            CodeDot<L, Format, 4>(w + 4, quads + 16, -part.offset * x.half_sums[2 * at + 1]);
        const auto scale_2 = L::LoadScale(scales + kPanelRows);
        sums[i] = L::Fma(L::Mul(L::ToFloat(first), x_scale), scale, sums[i]);
        sums[i] = L::Fma(L::Mul(L::ToFloat(second), x_scale), scale_2, sums[i]);
      } else {
        const int start =
            Format::kHasMin ? 0 : -part.offset * (x.half_sums[2 * at] + x.half_sums[2 * at + 1]);
        const auto dot = CodeDot<L, Format, 8>(w, quads, start);
        sums[i] = L::Fma(L::Mul(L::ToFloat(dot), x_scale), scale, sums[i]);
      }
      if constexpr (Format::kHasMin) {
        sums[i] = L::Fma(L::LoadScale(scales + kPanelRows), L::Set(x.sums[at]), sums[i]);
      }
    }
  }
}

template <typename L, typename Format, int kTile>
void StoreTile(const MatMulArgs& args, const PanelPart& part, int64_t p, int64_t t) {
  const std::byte* panel = part.data + p * part.panel_bytes;
  for (int lane = 0; lane < kPanelRows; lane += L::kLanes) {
    const int64_t row = p * kPanelRows + lane;
    if (row >= part.rows) return;
    const int count = static_cast<int>(part.rows - row < L::kLanes ? part.rows - row : L::kLanes);
    typename L::F sums[kTile];
    QuantisedTile<L, Format, kTile>(part, panel, lane, args.quantised, t, sums);
    for (int i = 0; i < kTile; ++i) {
      const int64_t n = part.row_begin + row;
      if (args.bias != nullptr) sums[i] = L::Add(sums[i], L::LoadN(args.bias + n, count));
      L::StoreN(args.out + (t + i) * args.out_stride + n, sums[i], count);
    }
  }
}

// Tokens outside, panels inside: a tile's activations stay in the first-level cache.
template <typename L, typename Format>
void QuantisedPanels(const MatMulArgs& args, const PanelPart& part, int64_t begin, int64_t end) {
  int64_t t = 0;
  const auto tiles = [&]<int kTile>() {
    for (; t + kTile <= args.tokens; t += kTile) {
      for (int64_t p = begin; p < end; ++p) StoreTile<L, Format, kTile>(args, part, p, t);
    }
  };
  if constexpr (L::kTileMax >= 8) tiles.template operator()<8>();
  tiles.template operator()<4>();
  tiles.template operator()<2>();
  tiles.template operator()<1>();
}

// Float panels: column k is added to sum k mod 4 of its row; the four are added at the end.
template <typename V, typename Load, int kTile>
void FloatTile(const MatMulArgs& args, const PanelPart& part, int64_t p, int64_t t) {
  const std::byte* panel = part.data + p * part.panel_bytes;
  const float* x = args.x + t * args.x_stride;
  typename V::F sums[kTile][4];
  for (int i = 0; i < kTile; ++i) {
    for (int j = 0; j < 4; ++j) sums[i][j] = V::Zero();
  }
  int64_t k = 0;
  for (; k + 4 <= part.cols; k += 4) {
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
void FloatPanels(const MatMulArgs& args, const PanelPart& part, int64_t begin, int64_t end) {
  int64_t t = 0;
  for (; t + V::kFloatTile <= args.tokens; t += V::kFloatTile) {
    for (int64_t p = begin; p < end; ++p) FloatTile<V, Load, V::kFloatTile>(args, part, p, t);
  }
  for (; t < args.tokens; ++t) {
    for (int64_t p = begin; p < end; ++p) FloatTile<V, Load, 1>(args, part, p, t);
  }
}

template <typename V>
struct LoadF32 {
  static typename V::F At(const std::byte* panel, int64_t element) {
    return V::Load(reinterpret_cast<const float*>(panel) + element);
  }
};
template <typename V>
struct LoadF16 {
  static typename V::F At(const std::byte* panel, int64_t element) {
    return V::LoadHalf(reinterpret_cast<const uint16_t*>(panel) + element);
  }
};
template <typename V>
struct LoadBF16 {
  static typename V::F At(const std::byte* panel, int64_t element) {
    return V::LoadBfloat16(reinterpret_cast<const uint16_t*>(panel) + element);
  }
};

template <typename V, typename L>
void MatMulPanels(const MatMulArgs& args, const PanelPart& part, int64_t begin, int64_t end) {
  switch (part.format) {
    case TensorFormat::kF32:
      return FloatPanels<V, LoadF32<V>>(args, part, begin, end);
    case TensorFormat::kF16:
      return FloatPanels<V, LoadF16<V>>(args, part, begin, end);
    case TensorFormat::kBF16:
      return FloatPanels<V, LoadBF16<V>>(args, part, begin, end);
    case TensorFormat::kQ8_0:
      return QuantisedPanels<L, PanelFormat<255, false, false, uint16_t>>(args, part, begin, end);
    case TensorFormat::kQ4_0:
      return QuantisedPanels<L, PanelFormat<15, false, false, uint16_t>>(args, part, begin, end);
    case TensorFormat::kQ4_1:
      return QuantisedPanels<L, PanelFormat<15, true, false, uint16_t>>(args, part, begin, end);
    case TensorFormat::kQ5_0:
      return QuantisedPanels<L, PanelFormat<31, false, false, uint16_t>>(args, part, begin, end);
    case TensorFormat::kQ5_1:
      return QuantisedPanels<L, PanelFormat<31, true, false, uint16_t>>(args, part, begin, end);
    case TensorFormat::kQ4_K:
      return QuantisedPanels<L, PanelFormat<15, true, false, float>>(args, part, begin, end);
    case TensorFormat::kQ5_K:
      return QuantisedPanels<L, PanelFormat<31, true, false, float>>(args, part, begin, end);
    case TensorFormat::kQ6_K:
      return QuantisedPanels<L, PanelFormat<63, false, true, float>>(args, part, begin, end);
  }
}

}  // namespace
}  // namespace echelon::cpu
