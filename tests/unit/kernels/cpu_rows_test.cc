// The row kernels of every instruction set that this machine has against their scalar twin, bit for
// bit: widths with and without tails, misaligned memory, numbers of every size, and nothing written
// behind the row.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kernels.h"
#include "tests/unit/kernels/cpu_op_twins.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using test::RandomFloats;
using test::SameBits;

constexpr int kWidths[] = {1,  2,  7,  8,  9,  15, 16,  17,  23,  24,  31,
                           32, 33, 47, 48, 63, 64, 100, 576, 577, 1535};
constexpr float kGuard = 1234.5f;

// A row that begins `shift` floats off its alignment, and a guard behind it.
class Row {
 public:
  Row(std::vector<float> values, int shift) : size_(values.size()), shift_(shift) {
    floats_.assign(shift, kGuard);
    floats_.insert(floats_.end(), values.begin(), values.end());
    floats_.resize(floats_.size() + 16, kGuard);
  }
  float* data() { return floats_.data() + shift_; }
  std::span<const float> values() const { return {floats_.data() + shift_, size_}; }
  bool GuardIntact() const {
    return std::all_of(floats_.end() - 16, floats_.end(), [](float v) { return v == kGuard; }) &&
           std::all_of(floats_.begin(), floats_.begin() + shift_,
                       [](float v) { return v == kGuard; });
  }

 private:
  size_t size_;
  int shift_;
  std::vector<float> floats_;
};

class CpuRows : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto kernels = cpu::ChooseKernels(GetParam());
    if (!kernels.ok()) GTEST_SKIP() << kernels.error().message;
    kernels_ = *kernels;
  }
  // body(n, shift) for all widths and misalignments.
  template <typename Body>
  void ForRows(Body body) const {
    for (const int n : kWidths) {
      for (int shift = 0; shift < 4; ++shift) {
        SCOPED_TRACE("n " + std::to_string(n) + " shift " + std::to_string(shift));
        body(n, shift);
      }
    }
  }
  const cpu::CpuKernels* kernels_ = nullptr;
};

TEST_P(CpuRows, RmsNormEqualsItsTwin) {
  ForRows([&](int n, int shift) {
    Row x(RandomFloats(n, 1, 3.0f), shift), weight(RandomFloats(n, 2), 3 - shift);
    Row out(std::vector<float>(n), shift);
    const auto want = test::RmsNormTwin(x.values(), weight.data(), 1e-5f);
    kernels_->rms_norm(x.data(), weight.data(), 1e-5f, n, out.data());
    EXPECT_TRUE(SameBits(out.values(), want));
    EXPECT_TRUE(out.GuardIntact());
    kernels_->rms_norm(x.data(), weight.data(), 1e-5f, n, x.data());  // in place
    EXPECT_TRUE(SameBits(x.values(), want));
  });
}

TEST_P(CpuRows, AddResidualEqualsItsTwin) {
  ForRows([&](int n, int shift) {
    Row norm(RandomFloats(n, 3), shift), delta(RandomFloats(n, 4, 2.0f), 3 - shift);
    for (const float* post_norm :
         {static_cast<const float*>(nullptr), static_cast<const float*>(norm.data())}) {
      for (const float keep : {1.0f, 0.5f}) {
        Row residual(RandomFloats(n, 5, 5.0f), shift);
        const auto want =
            test::AddResidualTwin(residual.values(), delta.data(), keep, post_norm, 1e-6f);
        kernels_->add_residual(residual.data(), delta.data(), keep, post_norm, 1e-6f, n);
        EXPECT_TRUE(SameBits(residual.values(), want));
        EXPECT_TRUE(residual.GuardIntact());
      }
    }
  });
}

TEST_P(CpuRows, GatedActivationEqualsItsTwin) {
  ForRows([&](int n, int shift) {
    Row gate(RandomFloats(n, 6, 9.0f), shift), up(RandomFloats(n, 7, 2.0f), 3 - shift);
    for (const GatedKind kind : {GatedKind::kSilu, GatedKind::kGeluTanh}) {
      Row out(std::vector<float>(n), shift);
      kernels_->gated(gate.data(), up.data(), kind, n, out.data());
      std::vector<float> want;
      for (int i = 0; i < n; ++i) {
        const float g = gate.data()[i];
        const float activated =
            kind == GatedKind::kSilu ? test::SiluTwin(g) : test::GeluTanhTwin(g);
        want.push_back(activated * up.data()[i]);
      }
      EXPECT_TRUE(SameBits(out.values(), want));
      EXPECT_TRUE(out.GuardIntact());
    }
  });
}

// The exponential, through both activations: all exponents, both signs, and the odd ones.
TEST_P(CpuRows, ActivationsOfEverySizeOfNumberEqualTheirTwin) {
  std::vector<float> gates = {0.0f, -0.0f, 87.3f, -87.3f, 88.3f, -88.3f, INFINITY, -INFINITY, NAN};
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 0x00012345u) {
    gates.push_back(std::bit_cast<float>(bits));
    gates.push_back(-std::bit_cast<float>(bits));
  }
  for (float x = -100.0f; x < 100.0f; x += 0.0137f) gates.push_back(x);
  const std::vector<float> ones(gates.size(), 1.0f);
  std::vector<float> got(gates.size()), want;
  const auto n = static_cast<int64_t>(gates.size());
  kernels_->gated(gates.data(), ones.data(), GatedKind::kSilu, n, got.data());
  for (const float g : gates) want.push_back(test::SiluTwin(g) * 1.0f);
  EXPECT_TRUE(SameBits(got, want));
  kernels_->gated(gates.data(), ones.data(), GatedKind::kGeluTanh, n, got.data());
  want.clear();
  for (const float g : gates) want.push_back(test::GeluTanhTwin(g) * 1.0f);
  EXPECT_TRUE(SameBits(got, want));
}

TEST_P(CpuRows, RotationEqualsItsTwin) {
  for (const int dim : {2, 22, 64, 80, 96, 128, 256}) {
    for (const bool interleaved : {false, true}) {
      Row head(RandomFloats(dim, 8, 4.0f), dim % 3);
      const auto cos = RandomFloats(dim / 2, 9), sin = RandomFloats(dim / 2, 10);
      const auto want = test::RotateTwin(head.values(), cos.data(), sin.data(), interleaved);
      kernels_->rotate(head.data(), cos.data(), sin.data(), dim, interleaved);
      EXPECT_TRUE(SameBits(head.values(), want)) << dim;
      EXPECT_TRUE(head.GuardIntact());
    }
  }
}

// Columns begin inside a group and end inside one; a row of zeros, and of numbers too small for an
// inverse.
TEST_P(CpuRows, ActivationCodesEqualTheirTwin) {
  constexpr int kTokens = 3;
  for (const int cols : kWidths) {
    for (const int lead : {0, 1, 17, 31}) {
      SCOPED_TRACE("cols " + std::to_string(cols) + " lead " + std::to_string(lead));
      const int stride = cols + 3, groups = (cols + lead + 31) / 32;
      Row x(RandomFloats(kTokens * stride, 14, 50.0f), lead % 4);
      std::fill_n(x.data() + stride, cols, cols % 2 == 0 ? 0.0f : 1e-31f);
      std::vector<int16_t> codes(groups * kTokens * 32);
      std::vector<float> scales(groups * kTokens), sums(groups * kTokens);
      const cpu::QuantisedRows rows = {kTokens, groups, codes.data(), scales.data(), sums.data()};
      kernels_->quantise(x.data(), stride, cols, lead, 0, kTokens, rows);
      for (int t = 0; t < kTokens; ++t) {
        for (int g = 0; g < groups; ++g) {
          float filled[32] = {};
          for (int k = 0; k < 32; ++k) {
            const int column = 32 * g + k - lead;
            if (column >= 0 && column < cols) filled[k] = x.data()[t * stride + column];
          }
          const test::CodedGroup want = test::QuantiseTwin(filled);
          const int at = g * kTokens + t;
          for (int k = 0; k < 32; ++k) ASSERT_EQ(codes[at * 32 + k], want.codes[k]);
          EXPECT_EQ(scales[at], want.scale);
          EXPECT_EQ(sums[at], want.sum);
        }
      }
    }
  }
}

TEST_P(CpuRows, SumOfFloatsEqualsItsTwin) {
  for (const int n : {64, 128, 1024}) {
    Row x(RandomFloats(n, 15, 4.0f), n / 64 % 4);
    float lanes[64] = {}, sums[16];
    for (int i = 0; i < n; ++i) lanes[i % 64] += x.data()[i];
    for (int i = 0; i < 16; ++i)
      sums[i] = (lanes[i] + lanes[16 + i]) + (lanes[32 + i] + lanes[48 + i]);
    EXPECT_EQ(kernels_->sum_floats(x.data(), n), test::SumLanesTwin(sums));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuRows, testing::Values("avx2", "avxvnni", "avx512"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace echelon
