// Block formats: against the figures of GGUF's own Python package, and there and back again.

#include "kernels/quant/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "common/half.h"
#include "tests/unit/kernels/ops_kit.h"
#include "tests/unit/kernels/quant_golden.h"

namespace echelon {
namespace {

std::vector<std::byte> FromHex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(Quant, DequantizesAsGgufDoes) {
  ASSERT_EQ(std::size(kQuantGolden), TensorFormats().size());
  for (const QuantGolden& golden : kQuantGolden) {
    const TensorFormatInfo& info = InfoOf(golden.format);
    SCOPED_TRACE(std::string(info.name));
    const std::vector<std::byte> bytes = FromHex(golden.bytes_hex);
    const int64_t n = static_cast<int64_t>(bytes.size()) / info.block_bytes * info.block_elements;
    std::vector<float> values(n);
    DequantizeRow(golden.format, bytes.data(), n, values.data());
    for (int i = 0; i < 8; ++i) EXPECT_EQ(values[golden.index[i]], golden.value[i]) << i;
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(i + 1) * values[i];
    EXPECT_NEAR(sum, golden.weighted_sum, 1e-9 * std::fabs(golden.weighted_sum));
  }
}

// An encoder may be wrong by half a step of its codes, and by the rounding of its scale to float16
// (2^-11 of a value of at most 1). Steps over [-1, 1]: 2/15 for 4 bits with a minimum; the _0
// formats put the extreme on the end code, so that the other end may be a whole step short.
TEST(Quant, EncodersRoundToNearest) {
  struct Row {
    TensorFormat format;
    double error_max;
  };
  const Row rows[] = {{TensorFormat::kF32, 0.0},
                      {TensorFormat::kF16, 0x1p-12},
                      {TensorFormat::kBF16, 0x1p-9},
                      {TensorFormat::kQ8_0, 0.5 / 127 + 0x1p-11},
                      {TensorFormat::kQ4_0, 1.0 / 8 + 0x1p-10},
                      {TensorFormat::kQ4_1, 1.0 / 15 + 0x1p-10},
                      {TensorFormat::kQ5_0, 1.0 / 16 + 0x1p-10},
                      {TensorFormat::kQ5_1, 1.0 / 31 + 0x1p-10}};
  const std::vector<float> values = test::RandomFloats(1024, 5);
  for (const Row& row : rows) {
    const TensorFormatInfo& info = InfoOf(row.format);
    std::vector<std::byte> bytes(1024 / info.block_elements * info.block_bytes);
    ASSERT_TRUE(QuantizeRow(row.format, values.data(), 1024, bytes.data()));
    std::vector<float> back(1024);
    DequantizeRow(row.format, bytes.data(), 1024, back.data());
    double worst = 0.0;
    for (int i = 0; i < 1024; ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(back[i]) - values[i]));
    }
    EXPECT_LE(worst, row.error_max) << info.name;
    EXPECT_GE(worst, row.error_max / 8) << info.name << ": suspiciously exact";
  }
}

TEST(Quant, KQuantsHaveNoEncoder) {
  const std::vector<float> values(256, 1.0f);
  std::vector<std::byte> bytes(256);
  EXPECT_FALSE(QuantizeRow(TensorFormat::kQ4_K, values.data(), 256, bytes.data()));
}

TEST(Half, EveryHalfComesBack) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = HalfToFloat(static_cast<uint16_t>(half));
    if (std::isnan(value)) {
      EXPECT_GT(half & 0x7fffu, 0x7c00u);
    } else {
      ASSERT_EQ(FloatToHalf(value), half);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), 0x3c00);      // tie: down to even
  EXPECT_EQ(FloatToHalf(1.0f + 3 * 0x1p-11f), 0x3c02);  // tie: up to even
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);    // tie: down to even
  EXPECT_EQ(FloatToHalf(0x1.8p-24f), 0x0002);  // tie between 1 and 2
  EXPECT_EQ(FloatToBfloat16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(FloatToBfloat16(1.0f + 3 * 0x1p-8f), 0x3f82);
}

}  // namespace
}  // namespace echelon
