#pragma once
// The product with quantised panels. A lane owns a weight row and adds its groups in ascending
// order: within a group whole numbers, so exactly, then
//   sum = fma(float(dot) * x_scale, scale, sum)   (split scales: twice, 16 columns each)
//   sum = fma(min, x_sum, sum)                    (formats with minima)
// so that a row of the result has the same bits for every number of tokens.
//
// Few tokens (one tile): codes are unpacked in registers as they come from memory; where they are
// fewest into bytes, so that a Q4_1 group takes 48 instructions and not 66 with AVX-512, 106 and
// not 126 with AVX2 (Q4_0, whose offset then is taken off the dots, 110 and not 158). More: two
// panels are unpacked into the thread's scratch once, and tiles of tokens pass over them, while the
// next two panels come nearer. With AVX-512 a group costs a tile of 8 tokens and 2 panels 256 dots
// and 64 for scales and minima, on two ports: 160 cycles for 8,192 multiply-adds (162 measured);
// unpacking adds some 60 cycles for all tiles of a chunk.

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/matmul_common_inl.h"
#include "kernels/cpu/matmul_float_inl.h"
#include "kernels/cpu/unpack_inl.h"

namespace echelon::cpu {
namespace {

// The dots of a group with codes in bytes, whole or of its halves of 16 columns: 128 times the dot
// with the codes' upper part, plus that with their lower part, less the weights' offset. The same
// whole numbers as the dots of words.
template <typename V, typename Format, int kTokens, int kHalves>
[[gnu::always_inline]] inline void DotsOfBytes(const std::byte* group, const QuantisedRows& x,
                                               int64_t at, typename V::I (*dots)[kHalves]) {
  constexpr int kPieces = kGroup / 4, kPiecesOfHalf = kPieces / kHalves;
  constexpr int kSafe = V::PiecesOfBytes(Format::kLayout.code_bits);
  constexpr int kRun = kSafe < kPiecesOfHalf ? kSafe : kPiecesOfHalf;
  const int8_t* codes = x.bytes + at * 2 * kGroup;
  typename V::I high[kTokens], low[kTokens];
  ForNumbers<kPieces>([&]<int piece>() __attribute__((always_inline)) {
    constexpr int kHalf = piece / kPiecesOfHalf;
    const auto w = CodeBytes<V, Format, piece>(group);
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      const int8_t* both = codes + i * 2 * kGroup + 8 * piece;
      if constexpr (piece % kRun == 0) high[i] = low[i] = V::ZeroInt();
      high[i] = V::DotBytes(high[i], w, V::SetFour(both));
      low[i] = V::DotBytes(low[i], w, V::SetFour(both + 4));
      if constexpr (piece % kRun == kRun - 1) {
        const auto run = V::DotOfParts(high[i], low[i]);
        constexpr bool kFirst = piece % kPiecesOfHalf < kRun;
        dots[i][kHalf] = kFirst ? run : V::AddInt(dots[i][kHalf], run);
      }
    }
  });
  if constexpr (Format::kOffset != 0) {
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      const int32_t* sums = x.half_sums + 2 * (at + i);
      for (int half = 0; half < kHalves; ++half) {
        const int32_t sum = kHalves == 2 ? sums[half] : sums[0] + sums[1];
        dots[i][half] = V::AddInt(dots[i][half], V::SetInt(-Format::kOffset * sum));
      }
    }
  }
}

// The same with codes in words of 16 bits.
template <typename V, typename Format, int kTokens, int kHalves>
[[gnu::always_inline]] inline void DotsOfWords(const std::byte* group, const QuantisedRows& x,
                                               int64_t at, typename V::I (*dots)[kHalves]) {
  // With few tokens two chains of dots each, that of the first 16 columns and that of the others:
  // one chain of 16 would take 80 cycles.
  constexpr int kChains = kHalves == 2 || kTokens <= 4 ? 2 : 1;
  const int16_t* codes = x.codes + at * kGroup;
  typename V::I chains[kTokens][kChains];
#pragma GCC unroll 8
  for (int i = 0; i < kTokens; ++i) {
    for (int chain = 0; chain < kChains; ++chain) chains[i][chain] = V::ZeroInt();
  }
  ForNumbers<kPairs>([&]<int pair>() __attribute__((always_inline)) {
    constexpr int kChain = pair * kChains / kPairs;
    const auto w = CodePair<V, Format, pair>(group);
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      const auto both = V::SetPair(codes + i * kGroup + 2 * pair);
      chains[i][kChain] = V::Dot(chains[i][kChain], w, both);
    }
  });
#pragma GCC unroll 8
  for (int i = 0; i < kTokens; ++i) {
    if constexpr (kHalves == kChains) {
      for (int half = 0; half < kHalves; ++half) dots[i][half] = chains[i][half];
    } else {
      dots[i][0] = V::AddInt(chains[i][0], chains[i][1]);
    }
  }
}

// Tokens [t, t + kTokens) against panel p.
template <typename V, typename Format, int kTokens>
void FewTokens(const MatMulArgs& args, const PanelPart& part, int64_t p, int64_t t) {
  constexpr GroupLayout kLayout = Format::kLayout;
  constexpr int kHalves = kLayout.split_scales ? 2 : 1;
  const std::byte* panel = part.data + p * part.panel_bytes;
  const QuantisedRows& x = args.quantised;
  typename V::F sums[kTokens];
  for (int i = 0; i < kTokens; ++i) sums[i] = V::Zero();
#pragma GCC unroll 1
  for (int64_t g = 0; g < part.groups; ++g) {
    const std::byte* group = panel + g * kLayout.Bytes();
    const std::byte* super = panel + part.super_at(g);
    Prefetch<kLayout.Bytes()>(group);
    const int64_t at = g * x.tokens + t;
    typename V::I dots[kTokens][kHalves];
    if constexpr (kTokens <= V::kByteTokens && kLayout.code_bits < 8) {
      DotsOfBytes<V, Format, kTokens, kHalves>(group, x, at, dots);
    } else {
      DotsOfWords<V, Format, kTokens, kHalves>(group, x, at, dots);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      const auto x_scale = V::Set(x.scales[at + i]);
      const auto add = [&](typename V::I dot, typename V::F scale) __attribute__((always_inline)) {
        sums[i] = V::Fma(V::Mul(V::ToFloat(dot), x_scale), scale, sums[i]);
      };
      add(dots[i][0], GroupNumber<V, Format, 0>(group, super));
      if constexpr (kHalves == 2) add(dots[i][1], GroupNumber<V, Format, 1>(group, super));
      if constexpr (kLayout.has_min) {
        const auto x_sum = V::Set(x.sums[at + i]);
        sums[i] = V::Fma(GroupNumber<V, Format, 1>(group, super), x_sum, sums[i]);
      }
    }
  }
  for (int i = 0; i < kTokens; ++i) StoreSum<V>(args, part, p, t + i, sums[i]);
}

// Groups [begin, end) of panels [panel, panel + panels).
struct Block {
  int64_t panel;
  int panels;  // 1 or 2
  int64_t begin, end;
};

// Scratch of a block: group by group, panel by panel.
constexpr int kCodesOfGroup = kGroup * kPanelRows;
constexpr int kNumbersOfGroup = 2 * kPanelRows;

template <typename V, typename Format>
void UnpackBlock(const PanelPart& part, const Block& block, MatMulScratch& scratch) {
  for (int i = 0; i < block.panels; ++i) {
    const std::byte* panel = part.data + (block.panel + i) * part.panel_bytes;
    for (int64_t g = block.begin; g < block.end; ++g) {
      const std::byte* group = panel + g * Format::kLayout.Bytes();
      const std::byte* super = panel + part.super_at(g);
      const int64_t at = (g - block.begin) * block.panels + i;
      int16_t* codes = scratch.codes + at * kCodesOfGroup;
      ForNumbers<kPairs>([&]<int pair>() __attribute__((always_inline)) {
        V::StoreWords(codes + pair * 2 * kPanelRows, CodePair<V, Format, pair>(group));
      });
      float* numbers = scratch.scales + at * kNumbersOfGroup;
      V::Store(numbers, GroupNumber<V, Format, 0>(group, super));
      if constexpr (Format::kLayout.split_scales || Format::kLayout.has_min) {
        V::Store(numbers + kPanelRows, GroupNumber<V, Format, 1>(group, super));
      }
    }
  }
}

// What a tile asks of memory while it computes: bytes [from, to) of each group of the block that
// comes next.
struct Ahead {
  const std::byte* at;  // the first group of the next block, in its first panel
  int64_t panel_bytes, group_bytes;
  int64_t from, to;
};

// How a group's numbers are used.
enum class Numbers { kScale, kScaleAndMin, kTwoScales };

template <typename V, int kPanels, int kTokens>
struct TileSums {
  typename V::F at[kPanels][kTokens];
};

// Adds the groups of an unpacked block for tokens [t, t + kTokens).
template <typename V, Numbers kNumbers, int kPanels, int kTokens>
[[gnu::always_inline]] inline void AddGroups(const Block& block, const MatMulScratch& scratch,
                                             const QuantisedRows& x, int64_t t, Ahead ahead,
                                             TileSums<V, kPanels, kTokens>& sums) {
  constexpr int kHalves = kNumbers == Numbers::kTwoScales ? 2 : 1;
  constexpr int kPairsOfHalf = kPairs / kHalves;
  const int16_t* codes = scratch.codes;
  const float* numbers = scratch.scales;
  // Unrolled within a group, not over groups: sums and dots of a tile stay in registers.
#pragma GCC unroll 1
  for (int64_t g = block.begin; g < block.end; ++g) {
    const int16_t* x_codes = x.codes + (g * x.tokens + t) * kGroup;
    const float* x_scales = x.scales + g * x.tokens + t;
    const float* x_sums = x.sums + g * x.tokens + t;
    for (int64_t byte = ahead.from; byte < ahead.to; byte += 64) {
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(ahead.at + p * ahead.panel_bytes + byte);
    }
    ahead.at += ahead.group_bytes;
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half) {
      typename V::I dots[kPanels][kTokens];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
        for (int i = 0; i < kTokens; ++i) dots[p][i] = V::ZeroInt();
      }
#pragma GCC unroll 16
      for (int pair = half * kPairsOfHalf; pair < (half + 1) * kPairsOfHalf; ++pair) {
        typename V::I w[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          w[p] = V::LoadWords(codes + p * kCodesOfGroup + pair * 2 * kPanelRows);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kTokens; ++i) {
          const auto both = V::SetPair(x_codes + i * kGroup + 2 * pair);
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p) dots[p][i] = V::Dot(dots[p][i], w[p], both);
        }
      }
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        const auto scale = V::Load(numbers + p * kNumbersOfGroup + half * kPanelRows);
#pragma GCC unroll 8
        for (int i = 0; i < kTokens; ++i) {
          const auto x_scale = V::Set(x_scales[i]);
          sums.at[p][i] = V::Fma(V::Mul(V::ToFloat(dots[p][i]), x_scale), scale, sums.at[p][i]);
          if constexpr (kNumbers == Numbers::kScaleAndMin) {
            const auto min = V::Load(numbers + p * kNumbersOfGroup + kPanelRows);
            sums.at[p][i] = V::Fma(min, V::Set(x_sums[i]), sums.at[p][i]);
          }
        }
      }
    }
    codes += kPanels * kCodesOfGroup;
    numbers += kPanels * kNumbersOfGroup;
  }
}

// Tokens [t, t + kTokens) against an unpacked block. Between two blocks of a panel the sums wait in
// scratch.
template <typename V, Numbers kNumbers, int kPanels, int kTokens>
void Tile(const MatMulArgs& args, const PanelPart& part, const Block& block,
          const MatMulRange& range, int64_t t, const Ahead& ahead) {
  float* waiting = range.scratch->sums + (t - range.token_begin) * kPanels * kPanelRows;
  TileSums<V, kPanels, kTokens> sums;
  for (int i = 0; i < kTokens; ++i) {
    for (int p = 0; p < kPanels; ++p) {
      float* sum = waiting + (i * kPanels + p) * kPanelRows;
      sums.at[p][i] = block.begin == 0 ? V::Zero() : V::Load(sum);
    }
  }
  AddGroups<V, kNumbers, kPanels, kTokens>(block, *range.scratch, args.quantised, t, ahead, sums);
  for (int i = 0; i < kTokens; ++i) {
    for (int p = 0; p < kPanels; ++p) {
      if (block.end == part.groups) {
        StoreSum<V>(args, part, block.panel + p, t + i, sums.at[p][i]);
      } else {
        V::Store(waiting + (i * kPanels + p) * kPanelRows, sums.at[p][i]);
      }
    }
  }
}

// All tokens of the range against an unpacked block, in tiles of equal size but for one token: a
// small last tile would leave the dot instructions waiting for each other.
template <typename V, Numbers kNumbers, int kPanels>
void Tiles(const MatMulArgs& args, const PanelPart& part, const Block& block,
           const MatMulRange& range) {
  const int64_t count = (range.token_end - range.token_begin + V::kTokensMax - 1) / V::kTokensMax;
  const bool last = block.end == part.groups;
  Ahead ahead = {
      .at = part.data + (last ? (block.panel + kPanels) * part.panel_bytes
                              : block.panel * part.panel_bytes + part.group_at(block.end)),
      .panel_bytes = part.panel_bytes,
      .group_bytes = part.group_bytes,
      .from = 0,
      .to = 0};
  const int64_t lines = (part.group_bytes + 63) / 64;
  int64_t t = range.token_begin;
  for (int64_t tile = 0; tile < count; ++tile) {
    const int64_t size = (range.token_end - t + count - tile - 1) / (count - tile);
    ahead.from = 64 * (tile * lines / count);
    ahead.to = 64 * ((tile + 1) * lines / count);
    WithSize<V::kTokensMax>(size, [&]<int kTokens>() {
      Tile<V, kNumbers, kPanels, kTokens>(args, part, block, range, t, ahead);
    });
    t += size;
  }
}

template <typename V, typename Format>
void QuantisedPanels(const MatMulArgs& args, const PanelPart& part, const MatMulRange& range) {
  constexpr Numbers kNumbers = Format::kLayout.has_min        ? Numbers::kScaleAndMin
                               : Format::kLayout.split_scales ? Numbers::kTwoScales
                                                              : Numbers::kScale;
  const int64_t tokens = range.token_end - range.token_begin;
  // (The last few of many tokens go with the others: their codes are in words alone.)
  if (args.quantised.tokens <= V::kTokensMax) {
    WithSize<V::kTokensMax>(tokens, [&]<int kTokens>() {
      for (int64_t p = range.panel_begin; p < range.panel_end; ++p) {
        FewTokens<V, Format, kTokens>(args, part, p, range.token_begin);
      }
    });
    return;
  }
  Block block;
  for (block.panel = range.panel_begin; block.panel < range.panel_end;
       block.panel += V::kPanelsMax) {
    const int64_t left = range.panel_end - block.panel;
    block.panels = static_cast<int>(left < V::kPanelsMax ? left : V::kPanelsMax);
    for (block.begin = 0; block.begin < part.groups; block.begin = block.end) {
      const int64_t end = block.begin + kBlockGroups;
      block.end = end < part.groups ? end : part.groups;
      UnpackBlock<V, Format>(part, block, *range.scratch);
      if (block.panels == 1) {
        Tiles<V, kNumbers, 1>(args, part, block, range);
      } else {
        Tiles<V, kNumbers, V::kPanelsMax>(args, part, block, range);
      }
    }
  }
}

template <typename V>
void MatMulPanels(const MatMulArgs& args, const PanelPart& part, const MatMulRange& range) {
  switch (part.format) {
    case TensorFormat::kF32:
      return FloatPanels<V, LoadF32<V>>(args, part, range);
    case TensorFormat::kF16:
      return FloatPanels<V, LoadF16<V>>(args, part, range);
    case TensorFormat::kBF16:
      return FloatPanels<V, LoadBF16<V>>(args, part, range);
    case TensorFormat::kQ8_0:
      return QuantisedPanels<V, PanelFormat<GroupLayout{.code_bits = 8}, 0>>(args, part, range);
    case TensorFormat::kQ4_0:
      return QuantisedPanels<V, PanelFormat<GroupLayout{.code_bits = 4}, 8>>(args, part, range);
    case TensorFormat::kQ4_1:
      return QuantisedPanels<V, PanelFormat<GroupLayout{.code_bits = 4, .has_min = true}, 0>>(
          args, part, range);
    case TensorFormat::kQ5_0:
      return QuantisedPanels<V, PanelFormat<GroupLayout{.code_bits = 5}, 16>>(args, part, range);
    case TensorFormat::kQ5_1:
      return QuantisedPanels<V, PanelFormat<GroupLayout{.code_bits = 5, .has_min = true}, 0>>(
          args, part, range);
    case TensorFormat::kQ4_K:
      return QuantisedPanels<
          V, PanelFormat<GroupLayout{.code_bits = 4, .has_min = true, .super_scales = true}, 0>>(
          args, part, range);
    case TensorFormat::kQ5_K:
      return QuantisedPanels<
          V, PanelFormat<GroupLayout{.code_bits = 5, .has_min = true, .super_scales = true}, 0>>(
          args, part, range);
    case TensorFormat::kQ6_K:
      return QuantisedPanels<
          V,
          PanelFormat<GroupLayout{.code_bits = 6, .split_scales = true, .super_scales = true}, 32>>(
          args, part, range);
  }
}

}  // namespace
}  // namespace echelon::cpu
