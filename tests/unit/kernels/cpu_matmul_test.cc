// Every kernel of the CPU backend's product against its scalar twin, bit for bit: all formats,
// every size of a tile, chunks and blocks longer than the kernels take at once, tails of rows and
// columns, cuts inside blocks, misaligned memory, on every instruction set that this machine has.
// And that packed weights take no more memory than their file.

#include <gtest/gtest.h>

#include <string>

#include "kernels/cpu/kernels.h"
#include "kernels/quant/quant.h"
#include "tests/unit/kernels/cpu_twin.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

struct Product {
  int64_t rows, blocks, begin, cut, tokens;  // columns: blocks * block - begin - cut
  int64_t shift;                             // floats by which rows are off their alignment
};

class CpuMatMul : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto made = MakeBackend({.name = "cpu", .threads = 2, .isa = GetParam()});
    if (!made.ok()) {
      ASSERT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
      GTEST_SKIP() << made.error().message;
    }
    backend_ = std::move(*made);
  }

  void ExpectTwin(TensorFormat format, const Product& p) {
    SCOPED_TRACE(std::string(InfoOf(format).name) + " rows " + std::to_string(p.rows) + " blocks " +
                 std::to_string(p.blocks) + " from " + std::to_string(p.begin) + " tokens " +
                 std::to_string(p.tokens));
    const int64_t block = std::max(InfoOf(format).block_elements, 32);
    const auto stored = test::RandomMatrix(format, p.rows, p.blocks * block, 71);
    const HostMatrix matrix = stored.Cut(p.begin, p.blocks * block - p.cut);
    const int64_t cols = matrix.col_end - matrix.col_begin;
    const auto x = test::RandomFloats(p.tokens * cols, 72, 3.0f);
    const auto bias = test::RandomFloats(p.rows, 73);
    auto weight = test::MustPack(*backend_, {matrix});
    test::FloatBuffer in(*backend_, p.tokens, cols, x, cols + 3 * p.shift, p.shift);
    test::FloatBuffer out(*backend_, p.tokens, p.rows, p.rows + 5 * p.shift, p.shift);
    test::FloatBuffer device_bias(*backend_, 1, p.rows, bias);
    backend_->MatMul(in.tensor(), *weight, device_bias.data(), out.tensor());
    backend_->Synchronize();
    EXPECT_TRUE(out.GuardsIntact());
    EXPECT_TRUE(test::SameBits(out.Read(), test::CpuMatMulTwin(matrix, x, p.tokens, bias.data())));
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(CpuMatMul, EveryTileEqualsItsTwin) {
  for (const TensorFormatInfo& info : TensorFormats()) {
    // 17 tokens: tiles of one size and of two; 33 rows: a pair of panels and one with one row.
    for (int64_t tokens = 1; tokens <= 17; ++tokens) {
      ExpectTwin(info.format, {33, 2, 0, 0, tokens, tokens % 3});
    }
  }
}

TEST_P(CpuMatMul, TailsAndCutsEqualTheirTwin) {
  const Product products[] = {{1, 1, 0, 0, 1, 1},    {15, 3, 0, 31, 9, 0},  {16, 2, 5, 3, 3, 1},
                              {31, 3, 33, 1, 12, 2}, {48, 2, 17, 14, 2, 3}, {97, 1, 1, 30, 20, 1}};
  for (const TensorFormatInfo& info : TensorFormats()) {
    for (const Product& product : products) ExpectTwin(info.format, product);
  }
}

TEST_P(CpuMatMul, ChunksOfTokensAndBlocksOfGroupsEqualTheirTwin) {
  const int64_t tokens = cpu::kChunkTokens + 3;
  const int64_t cols = (cpu::kBlockGroups + 9) * cpu::kGroup;
  for (const TensorFormatInfo& info : TensorFormats()) {
    const int64_t block = std::max(info.block_elements, 32);
    ExpectTwin(info.format, {18, 1, 0, 0, tokens, 1});
    ExpectTwin(info.format, {34, (cols + block - 1) / block, 32, 7, 19, 0});
  }
}

TEST_P(CpuMatMul, PackedWeightsTakeNoMoreThanTheirFile) {
  for (const TensorFormatInfo& info : TensorFormats()) {
    const auto stored = test::RandomMatrix(info.format, 64, 2048, 81);
    const auto weight = test::MustPack(*backend_, {stored.view});
    // K-quants keep six-bit scales in bytes: 3 % of Q4_K.
    EXPECT_LE(static_cast<double>(weight->bytes()), 1.03 * static_cast<double>(stored.bytes.size()))
        << info.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuMatMul, testing::Values("avx2", "avxvnni", "avx512"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace echelon
