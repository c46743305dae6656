#include "worker/gumbel.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"
#include "kernels/exact_math.h"
#include "tests/unit/worker/vocab_ranks.h"

namespace echelon {
namespace {

// The definition: every token's noise drawn, the greatest sum wins.
GumbelDraw Naive(const GumbelRow& row) {
  GumbelDraw best;
  for (size_t i = 0; i < row.logits.size(); ++i) {
    const auto id = static_cast<int32_t>(row.first_id + static_cast<int64_t>(i));
    const double u = UniformFor(row.seed, 0, row.position, static_cast<uint32_t>(id));
    const double relative =
        (static_cast<double>(row.logits[i]) - row.max) * row.inverse_temperature;
    const GumbelDraw draw{relative - ExactLog(-ExactLog(u)), id};
    if (Beats(draw, best)) best = draw;
  }
  return best;
}

// The short cuts skip only what cannot win, however flat or steep the distribution.
TEST(DrawFrom, IsTheGreatestSumOfLogitAndNoise) {
  for (const double inverse_temperature : {0.01, 0.3, 1.0, 10.0}) {
    for (uint32_t trial = 0; trial < 200; ++trial) {
      const std::vector<float> logits = testing::RandomLogits(1000, trial % 5);
      GumbelRow row;
      row.logits = logits;
      row.first_id = 130;  // not a multiple of four: quads begin elsewhere
      row.max = *std::max_element(logits.begin(), logits.end());
      row.inverse_temperature = inverse_temperature;
      row.seed = trial;
      row.position = trial * 7;
      const GumbelDraw expected = Naive(row);
      const GumbelDraw draw = DrawFrom(row);
      ASSERT_EQ(draw.id, expected.id);
      ASSERT_EQ(draw.score, expected.score);
    }
  }
}

TEST(DrawFrom, NothingToDrawIsNoToken) {
  GumbelRow row;
  EXPECT_EQ(DrawFrom(row).id, -1);
  const std::vector<float> logits = {1.0f, 2.0f};
  row.logits = logits;
  row.max = 9.0f;
  row.log_min = -1.0;  // both are further below the maximum
  EXPECT_EQ(DrawFrom(row).id, -1);
}

TEST(Beats, TiesGoToTheLowerIdAndNothingLoses) {
  EXPECT_TRUE(Beats({1.0, 3}, {1.0, 4}));
  EXPECT_FALSE(Beats({1.0, 4}, {1.0, 3}));
  EXPECT_TRUE(Beats({-1e9, 4}, {0.0, -1}));
  EXPECT_FALSE(Beats({0.0, -1}, {0.0, -1}));
}

}  // namespace
}  // namespace echelon
