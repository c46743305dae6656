// The pure parts of the CUDA backend on the host: packed rows give back every value, and attention
// is cut at absolute splits whatever the batch.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cache_layout.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/weight.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon::cuda {
namespace {

// The planes of a part, in host memory.
struct HostPlanes {
  std::vector<uint64_t> codes, scales, supers;
  PartView view;

  explicit HostPlanes(const HostMatrix& matrix) : view(ShapeOf(matrix)) {
    codes.resize(static_cast<size_t>(view.CodeBytes() / 8));
    scales.resize(static_cast<size_t>(view.ScalePlaneBytes() / 8 + 1));
    supers.resize(static_cast<size_t>(view.SuperPlaneBytes() / 8 + 1));
    view.codes = reinterpret_cast<const char*>(codes.data());
    view.scales = reinterpret_cast<const char*>(scales.data());
    view.supers = reinterpret_cast<const char*>(supers.data());
    for (int64_t r = 0; r < matrix.rows; ++r) {
      PackRow(matrix, matrix.data + r * matrix.row_bytes, view, r);
    }
  }
};

TEST(CudaLayout, PackedRowsGiveBackEveryValueExactly) {
  for (const TensorFormatInfo& info : TensorFormats()) {
    SCOPED_TRACE(std::string(info.name));
    // 1, 9 and 35 groups of 32 (8, 16 and 40 where blocks have 8): whole tiles and tails.
    for (const int64_t groups : {1, 9, 35}) {
      const int64_t block = std::max(info.block_elements, 32);
      const int64_t cols = (groups * 32 + block - 1) / block * block;
      const auto matrix = test::RandomMatrix(info.format, 19, cols, 5);
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, cols}, {7, cols - 13}}) {
        const HostPlanes planes(matrix.Cut(begin, end));
        for (int64_t r = 0; r < 19; r += 3) {
          const auto want = matrix.Row(r);
          for (int64_t c = 0; c < end - begin; ++c) {
            ASSERT_EQ(ValueAt(planes.view, r, c), want[begin + c]) << r << " " << c;
          }
        }
      }
    }
  }
}

TEST(CudaLayout, ChunksOfATileFillIt) {
  for (int p = 0; p <= static_cast<int>(Packing::kF32); ++p) {
    PartView part;
    part.packing = static_cast<Packing>(p);
    std::vector<int> used(static_cast<size_t>(part.TileBytes()));
    for (int r = 0; r < kTileRows; ++r) {
      for (int t = 0; t < 4; ++t) {
        const int64_t at = ChunkOffset(part.packing, r, t);
        for (int w = 0; w < WordsOf(part.packing) / 4 * 4; ++w) {
          ++used.at(static_cast<size_t>(at + (w < 16 ? w : 512 + w - 16)));
        }
        const int high = part.packing == Packing::k5 ? 1 : part.packing == Packing::k6 ? 2 : 0;
        for (int b = 0; b < high; ++b) {
          ++used.at(static_cast<size_t>(HighOffset(part.packing, r, t) + b));
        }
      }
    }
    EXPECT_EQ(std::count(used.begin(), used.end(), 1), static_cast<int64_t>(used.size())) << p;
  }
  for (int e = 0; e < kGroup; ++e) EXPECT_EQ(ElementAt(ChunkOf(e), PlaceOf(e)), e);
}

TEST(CudaLayout, PackedWeightsGrowByNoMoreThanTheirTails) {
  for (const TensorFormatInfo& info : TensorFormats()) {
    const auto matrix = test::RandomMatrix(info.format, 16, 4096, 5);
    const PartView part = ShapeOf(matrix.view);
    const int64_t bytes = part.CodeBytes() + part.ScalePlaneBytes() + part.SuperPlaneBytes();
    // K-quants store their six-bit numbers as bytes: 4 of 144 bytes more (Q4_K), Q6_K's missing
    // minimum 2 of 210.
    EXPECT_LE(bytes, 16 * matrix.view.row_bytes * 103 / 100) << info.name;
  }
}

TEST(CudaLayout, KeysAndValuesOfAPageShareItWithoutOverlap) {
  for (const auto& [type, dim, tokens] :
       {std::tuple(KvType::kF16, 64, 16), std::tuple(KvType::kF32, 22, 5),
        std::tuple(KvType::kF16, 2, 48), std::tuple(KvType::kF16, 80, 16),
        std::tuple(KvType::kQ8_0, 96, 8), std::tuple(KvType::kQ8_0, 22, 5)}) {
    const CacheView cache = {nullptr, 0, tokens, 1, dim, type};
    EXPECT_EQ(cache.HeadBytes(), static_cast<int64_t>(KvShape{.layers = 1,
                                                              .pages = 1,
                                                              .page_tokens = tokens,
                                                              .kv_heads = 1,
                                                              .head_dim = dim,
                                                              .type = type}
                                                          .PageBytes()));
    std::vector<int> used(static_cast<size_t>(cache.HeadBytes()));
    const auto use = [&](int64_t at, int64_t bytes) {
      for (int64_t i = 0; i < bytes; ++i) ++used.at(static_cast<size_t>(at + i));
    };
    for (int slot = 0; slot < tokens; ++slot) {
      for (int d = 0; d < dim; ++d) {
        use(cache.KeyIndex(slot, d) * cache.ElementBytes(), cache.ElementBytes());
        use(cache.ValueIndex(slot, d) * cache.ElementBytes(), cache.ElementBytes());
      }
      for (int block = 0; type == KvType::kQ8_0 && block < cache.Blocks(); ++block) {
        use(cache.ScaleOffset(false, slot, block), 2);
        use(cache.ScaleOffset(true, slot, block), 2);
      }
    }
    EXPECT_EQ(std::count(used.begin(), used.end(), 1), static_cast<int64_t>(used.size()));
  }
}

// A batch of one sequence whose rows are at these positions.
struct Positions {
  std::vector<int32_t> positions, sequences, page_begin = {0, 1000}, pages;
  explicit Positions(std::vector<int32_t> at)
      : positions(std::move(at)), sequences(positions.size(), 0), pages(1000) {
    std::iota(pages.begin(), pages.end(), 0);
  }
  AttentionArgs Args(int window = 0) const {
    AttentionArgs args;
    args.q = Tensor(nullptr, static_cast<int64_t>(positions.size()), 8);
    args.rows = {positions, sequences, page_begin, pages};
    args.window = window;
    return args;
  }
};

AttentionLimits Room(int64_t partial_rows) { return {.partial_rows_max = partial_rows}; }

TEST(CudaAttentionPlan, UnitsAreAbsoluteSplitsInAscendingOrder) {
  const Positions batch({0, 255, 256, 1000});
  const auto plan = PlanAttention(batch.Args(), Room(1000));
  ASSERT_EQ(plan.passes.size(), 1u);
  const AttentionPass& pass = plan.passes[0];
  EXPECT_EQ(pass.merge_begin, (std::vector<int32_t>{0, 1, 2, 4, 8}));
  EXPECT_EQ(pass.row_of, (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(pass.continued, (std::vector<int32_t>{0, 0, 0, 0}));
  EXPECT_EQ(plan.rows[3].partial, 4);
  ASSERT_EQ(pass.units.size(), 8u);
  for (const AttentionUnit& unit : pass.units) {
    EXPECT_EQ(unit.first / kAttentionSplit, (unit.end - 1) / kAttentionSplit);
  }
  EXPECT_EQ(pass.units[7].first, 768);
  EXPECT_EQ(pass.units[7].end, 1001);
}

TEST(CudaAttentionPlan, NeighbouringRowsShareAUnit) {
  AttentionLimits limits = Room(1000);
  limits.split_tokens = 4;
  const auto plan = PlanAttention(Positions({254, 255, 256, 257, 258}).Args(), limits);
  const AttentionPass& pass = plan.passes[0];
  EXPECT_EQ(pass.merge_begin, (std::vector<int32_t>{0, 1, 2, 4, 6, 8}));
  ASSERT_EQ(pass.units.size(), 4u);  // two splits of four rows, two of one
  EXPECT_EQ(pass.units[1].row, 0);
  EXPECT_EQ(pass.units[1].count, 4);
  EXPECT_EQ(pass.units[1].first, 256);
  EXPECT_EQ(pass.units[1].end, 258);
  EXPECT_EQ(pass.units[3].count, 1);
  EXPECT_TRUE(plan.whole.empty());
}

TEST(CudaAttentionPlan, RowsThatFillTheDeviceAreAttendedWhole) {
  std::vector<int32_t> positions = {9000};  // one row of its own, then 20 of another sequence
  for (int p = 500; p < 520; ++p) positions.push_back(p);
  Positions batch(positions);
  std::fill(batch.sequences.begin() + 1, batch.sequences.end(), 1);
  batch.page_begin = {0, 0, 1000};
  AttentionLimits limits = Room(1000);
  limits.whole_tokens = 8;
  limits.whole_units_min = 3;
  const auto plan = PlanAttention(batch.Args(), limits);
  ASSERT_EQ(plan.whole.size(), 3u);
  EXPECT_EQ(plan.whole[0].row, 17);  // the longest first
  EXPECT_EQ(plan.whole[0].count, 4);
  EXPECT_EQ(plan.whole[0].end, 520);
  EXPECT_EQ(plan.whole[2].first, 0);
  ASSERT_EQ(plan.passes.size(), 1u);
  EXPECT_EQ(plan.passes[0].row_of, (std::vector<int32_t>{0}));
  limits.whole_units_min = 4;
  EXPECT_TRUE(PlanAttention(batch.Args(), limits).whole.empty());
}

TEST(CudaAttentionPlan, AWindowBeginsWithinASplit) {
  const Positions batch({1000});
  const auto plan = PlanAttention(batch.Args(/*window=*/300), Room(1000));
  ASSERT_EQ(plan.passes[0].units.size(), 2u);
  EXPECT_EQ(plan.passes[0].units[0].first, 701);
  EXPECT_EQ(plan.passes[0].units[0].end, 768);
}

TEST(CudaAttentionPlan, ARowIsNeverCutBetweenPasses) {
  const Positions batch({600, 600, 600, 5000});
  for (const int tokens : {1, 4}) {
    AttentionLimits limits = Room(6);
    limits.split_tokens = tokens;
    const auto passes = PlanAttention(batch.Args(), limits).passes;
    ASSERT_EQ(passes.size(), 3u);  // 3 + 3 splits, 3, and 20 that are more than fit
    EXPECT_EQ(passes[0].row_of, (std::vector<int32_t>{0, 1}));
    EXPECT_EQ(passes[1].row_of, (std::vector<int32_t>{2}));
    EXPECT_EQ(passes[2].units.size(), 20u);
    EXPECT_EQ(passes[2].partial_rows, 20);
  }
}

TEST(CudaAttentionPlan, WhatIsFilledUpStaysWithinTheScratchMemory) {
  for (const auto& [room, filled] : {std::pair<int64_t, int64_t>{1000, 16}, {12, 12}}) {
    AttentionPlan plan = PlanAttention(Positions({0, 255, 256, 1000, 300}).Args(), Room(room));
    ASSERT_EQ(plan.passes.size(), 1u);
    ASSERT_EQ(plan.passes[0].partial_rows, 10);
    plan.passes[0].FillUp(8, room);
    EXPECT_EQ(plan.passes[0].partial_rows, filled);
    EXPECT_EQ(plan.passes[0].units.size(), 16u);
    EXPECT_EQ(plan.passes[0].merge_begin.size(), 9u);
  }
  // A row of more than fits has what it needs.
  AttentionPlan plan = PlanAttention(Positions({5000}).Args(), Room(6));
  plan.passes[0].FillUp(1, 6);
  EXPECT_EQ(plan.passes[0].partial_rows, 20);
}

TEST(CudaAttentionPlan, RowsThatSeeNothingAreLeftOutAndOthersContinue) {
  const Positions batch({0, 0, 0});
  AttentionArgs args = batch.Args();
  const std::vector<int32_t> begin = {0, -512, 10}, end = {0, 100, 20};
  args.begin = begin;
  args.end = end;
  const auto plan = PlanAttention(args, Room(100));
  ASSERT_EQ(plan.passes.size(), 1u);
  EXPECT_EQ(plan.passes[0].row_of, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(plan.passes[0].continued, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(plan.passes[0].units[0].first, 0);
}

TEST(CudaMath, ExpIsWithinTwoUnits) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-INFINITY), 0.0f);
  EXPECT_TRUE(std::isnan(Exp(NAN)));
  for (float x = -87.0f; x < 88.0f; x += 0.0137f) {
    const double want = std::exp(static_cast<double>(x));
    ASSERT_NEAR(Exp(x), want, want * 2 * 0x1p-23) << x;
  }
}

}  // namespace
}  // namespace echelon::cuda
