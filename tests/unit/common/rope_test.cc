#include "common/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace echelon {
namespace {

TEST(Rope, UnscaledFrequenciesArePowersOfTheta) {
  const auto f = RopeInverseFrequencies({.rope_theta = 10000.0}, 8);
  ASSERT_EQ(f.size(), 4u);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  EXPECT_NEAR(f[1], 0.1, 1e-15);
  EXPECT_NEAR(f[3], 0.001, 1e-17);
}

TEST(Rope, LinearDividesAll) {
  LayerConfig layer{.rope_theta = 1e6};
  const auto plain = RopeInverseFrequencies(layer, 64);
  layer.rope_scaling = {.kind = RopeScalingKind::kLinear, .factor = 8.0f};
  const auto scaled = RopeInverseFrequencies(layer, 64);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8.0);
}

// Llama 3.2 1B: theta 500000, factor 32, low 1, high 4, context 8192, head 64. The wavelength form
// of the published rule is written out here as the twin of the form in turns.
TEST(Rope, Llama3AgreesWithTheWavelengthForm) {
  LayerConfig layer{.rope_theta = 500000.0};
  const auto plain = RopeInverseFrequencies(layer, 64);
  layer.rope_scaling = {.kind = RopeScalingKind::kLlama3, .factor = 32.0f};
  const auto scaled = RopeInverseFrequencies(layer, 64);
  int kept = 0, divided = 0, between = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2.0 * std::numbers::pi / plain[i];
    if (wavelength < 8192.0 / 4.0) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 32.0);
      ++divided;
    } else {
      const double smooth = (8192.0 / wavelength - 1.0) / 3.0;
      EXPECT_NEAR(scaled[i], plain[i] * ((1.0 - smooth) / 32.0 + smooth), 1e-15);
      ++between;
    }
  }
  EXPECT_EQ(kept, 15);
  EXPECT_EQ(between, 3);
  EXPECT_EQ(divided, 14);
}

TEST(Rope, FactorsDivideOneByOne) {
  LayerConfig layer{.rope_theta = 100.0};
  layer.rope_scaling = {.kind = RopeScalingKind::kFactors, .factors = {1.0f, 4.0f}};
  const auto f = RopeInverseFrequencies(layer, 4);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  EXPECT_NEAR(f[1], 0.1 / 4.0, 1e-16);
}

}  // namespace
}  // namespace echelon
