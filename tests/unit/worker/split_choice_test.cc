// Choices by steps whose times are a test's formulas.

#include "worker/split_choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

namespace echelon {
namespace {

std::vector<SplitTimes> Rehearsed(double gain) { return {{2, 1.0, 1.0 - gain}}; }

struct Seen {
  int parts = 0, comparisons = 0;
};

// Steps of 8 rows, each of which takes what `seconds` says of it.
Seen Steps(
    SplitChoice& choice, int steps, const std::function<double(int step, bool parts)>& seconds,
    const std::function<double(int step)>& cost = [](int) { return 1.0; }) {
  Seen seen;
  for (int step = 0; step < steps; ++step) {
    const bool parts = choice.Begin(8, cost(step));
    seen.parts += parts ? 1 : 0;
    if (const auto compared = choice.Took(seconds(step, parts))) {
      ++seen.comparisons;
      choice.Learn(*compared);
    }
  }
  return seen;
}

TEST(SplitChoice, BeginsAsRehearsed) {
  const auto first = [](double gain, int64_t rows) {
    return SplitChoice(Rehearsed(gain)).Begin(rows, 1.0);
  };
  EXPECT_TRUE(first(0.3, 2));
  EXPECT_TRUE(first(0.3, 4096)) << "more rows than were rehearsed";
  EXPECT_FALSE(first(0.04, 8)) << "less than is worth it";
  EXPECT_FALSE(first(-0.5, 8));
  EXPECT_FALSE(SplitChoice({}).Begin(8, 1.0));
}

TEST(SplitChoice, ClassesOfRowsChooseEachAlone) {
  SplitChoice choice({{2, 1.0, 2.0}, {8, 1.0, 0.5}, {32, 1.0, 2.0}});
  EXPECT_FALSE(choice.Begin(3, 1.0));
  EXPECT_TRUE(choice.Begin(4, 1.0));
  EXPECT_TRUE(choice.Begin(15, 1.0));
  EXPECT_FALSE(choice.Begin(16, 1.0));
}

TEST(SplitChoice, StepsCorrectTheRehearsal) {
  for (const double gain : {0.3, -0.3}) {
    SplitChoice choice(Rehearsed(-gain));
    const auto truth = [&](int, bool parts) { return parts ? 1.0 - gain : 1.0; };
    Steps(choice, 120, truth);
    const Seen after = Steps(choice, 100, truth);
    EXPECT_NEAR(after.parts, gain > 0 ? 100 : 0, 10) << gain;
  }
}

TEST(SplitChoice, AGainThatVanishesIsNoticed) {
  SplitChoice choice(Rehearsed(0.3));
  Steps(choice, 200, [](int, bool parts) { return parts ? 0.7 : 1.0; });
  EXPECT_TRUE(choice.Begin(8, 1.0));
  Steps(choice, 200, [](int, bool parts) { return parts ? 1.2 : 1.0; });
  EXPECT_FALSE(choice.Begin(8, 1.0));
}

// The ninth step, the 26th, the 59th, the 124th and every 65th.
TEST(SplitChoice, WhereItIsClearTrialsAreRare) {
  SplitChoice choice(Rehearsed(0.5));
  const Seen seen = Steps(choice, 1301, [](int, bool parts) { return parts ? 0.5 : 1.0; });
  EXPECT_EQ(seen.parts, 1301 - 22);
  EXPECT_EQ(seen.comparisons, 22);
}

// Times that vary by a fifth, and a machine that becomes slower all the time: 10 % gain is found,
// and 5 % loss.
TEST(SplitChoice, NoiseAndDriftDoNotDecide) {
  for (const double gain : {0.15, -0.05}) {
    std::mt19937 dice(7);
    std::uniform_real_distribution<double> noise(0.9, 1.1);
    SplitChoice choice(Rehearsed(0.05));
    const auto truth = [&](int step, bool parts) {
      return (parts ? 1.0 - gain : 1.0) * noise(dice) * std::pow(1.01, step);
    };
    Steps(choice, 200, truth);
    EXPECT_NEAR(Steps(choice, 500, truth).parts, gain > 0 ? 500 : 0, 100) << gain;
  }
}

TEST(SplitChoice, StepsOfUnlikeCostAreNotCompared) {
  SplitChoice choice(Rehearsed(0.0));
  const auto truth = [](int, bool) { return 1.0; };
  EXPECT_EQ(Steps(choice, 100, truth, [](int step) { return step % 2 ? 1.0 : 1.2; }).comparisons,
            0);
  // What grows evenly is compared with its neighbours' mean.
  EXPECT_GT(Steps(choice, 100, truth, [](int step) { return 10.0 + step; }).comparisons, 0);
}

}  // namespace
}  // namespace echelon
