#include "common/random.h"

#include <gtest/gtest.h>

#include <set>

namespace echelon {
namespace {

using Block = std::array<uint32_t, 4>;

// Known answers of Philox4x32-10 from the Random123 distribution (kat_vectors).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox(0, {0, 0, 0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformFor, DependsOnEveryPartOfItsKey) {
  const double base = UniformFor(1, 2, 3, 4);
  EXPECT_EQ(base, UniformFor(1, 2, 3, 4));
  EXPECT_NE(base, UniformFor(2, 2, 3, 4));
  EXPECT_NE(base, UniformFor(1, 3, 3, 4));
  EXPECT_NE(base, UniformFor(1, 2, 4, 4));
  EXPECT_NE(base, UniformFor(1, 2, 3, 5));
}

TEST(UniformFor, IsUniformAndOpen) {
  constexpr int kDraws = 100'000;
  double sum = 0.0;
  for (int token = 0; token < kDraws; ++token) {
    const double u = UniformFor(42, 0, 7, token);
    ASSERT_GT(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  // The mean of n uniforms has deviation 1 / sqrt(12 n) = 0.0009; five of them.
  EXPECT_NEAR(sum / kDraws, 0.5, 0.0046);
}

TEST(UniformFor, TheExtremesOfItsBitsStayInside) {
  EXPECT_EQ(UniformFromBits(0), 0x1p-33);
  EXPECT_EQ(UniformFromBits(~0u), 1.0 - 0x1p-33);
}

TEST(UniformFor, IsReadFromTheBitsOfItsQuad) {
  const auto bits = UniformBitsFor(5, 1, 9, 3);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(UniformFor(5, 1, 9, 12 + i), UniformFromBits(bits[i]));
}

}  // namespace
}  // namespace echelon
