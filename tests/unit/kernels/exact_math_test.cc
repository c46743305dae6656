#include "kernels/exact_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/random.h"

namespace echelon {
namespace {

TEST(ExactLog, IsTheLogarithm) {
  for (uint32_t i = 0; i < 200'000; ++i) {
    const double u = UniformFor(2, 0, 0, i);
    for (const double x : {u, 1.0 - u, u * 1e300, u * 1e-290, 1.0 + 1e-9 * u}) {
      const double expected = std::log(x);
      ASSERT_NEAR(ExactLog(x), expected, 4.5e-16 * std::abs(expected)) << x;
    }
  }
  EXPECT_EQ(ExactLog(1.0), 0.0);
}

// The figures a replay must find again on any machine. They fail where a compiler or library
// changes the order of operations.
TEST(ExactMath, HasTheSameBitsEverywhere) {
  EXPECT_EQ(MassOf(-1.0), 202243861594u);  // 2^39 / e
  EXPECT_EQ(std::bit_cast<uint64_t>(ExactLog(10.0)), 0x40026bb1bbb55516u);
  uint64_t hash = 0;
  for (uint32_t i = 0; i < 100'000; ++i) {
    const double u = UniformFor(3, 0, 0, i);
    hash = hash * 31 + MassOf(-20.0 * u);
    hash = hash * 31 + std::bit_cast<uint64_t>(ExactLog(u));
  }
  EXPECT_EQ(hash, 0x68bf8b7616d3d3f4u);  // also what Python's doubles give
}

TEST(MassOf, IsTheExponentialRounded) {
  for (uint32_t i = 0; i < 200'000; ++i) {
    const double x = -60.0 * UniformFor(1, 0, 0, i) * UniformFor(1, 0, 1, i);
    const double expected = std::exp(x) * (uint64_t{1} << kMassBits);
    ASSERT_NEAR(static_cast<double>(MassOf(x)), expected, 0.51) << x;
  }
}

TEST(MassOf, TheEnds) {
  EXPECT_EQ(MassOf(0.0), uint64_t{1} << kMassBits);
  EXPECT_EQ(MassOf(std::log(0.25)), uint64_t{1} << (kMassBits - 2));
  EXPECT_EQ(MassOf(-kMassBits * M_LN2), 1u);
  EXPECT_EQ(MassOf(-(kMassBits + 1.01) * M_LN2), 0u);
  EXPECT_EQ(MassOf(-1e300), 0u);
  EXPECT_EQ(MassOf(-std::numeric_limits<double>::infinity()), 0u);
  EXPECT_EQ(MassOf(std::numeric_limits<double>::quiet_NaN()), 0u);
}

}  // namespace
}  // namespace echelon
