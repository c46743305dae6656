#include "worker/logit_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/exact_math.h"
#include "kernels/threshold_math.h"
#include "tests/unit/worker/vocab_ranks.h"

namespace echelon {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(OrderKey, OrdersAsTheNumbersDo) {
  const std::vector<float> ascending = {-kInf,  -1e30f, -2.0f, -1e-40f, 0.0f,
                                        1e-40f, 1.0f,   7.5f,  kInf};
  for (size_t i = 1; i < ascending.size(); ++i) {
    EXPECT_LT(OrderKey(ascending[i - 1]), OrderKey(ascending[i]));
  }
  EXPECT_EQ(OrderKey(-0.0f), OrderKey(0.0f));
  EXPECT_LT(OrderKey(kNan), OrderKey(-kInf));
  EXPECT_LT(OrderKey(-kNan), OrderKey(-kInf));
}

TEST(MaxLogit, EveryPlaceAndLength) {
  for (size_t size = 1; size < 70; ++size) {
    for (size_t at = 0; at < size; ++at) {
      std::vector<float> logits(size, -2.0f);
      logits[at] = -1.0f;
      EXPECT_EQ(MaxLogit(logits), -1.0f);
      EXPECT_EQ(FirstEqual(logits, -1.0f), static_cast<int64_t>(at));
      logits.back() = -1.0f;
      EXPECT_EQ(FirstEqual(logits, -1.0f), static_cast<int64_t>(at));
    }
  }
}

TEST(MaxLogit, PassesOverWhatIsNoNumber) {
  std::vector<float> logits(40, kNan);
  EXPECT_EQ(MaxLogit(logits), -kInf);
  EXPECT_EQ(FirstEqual(logits, -kInf), -1);
  logits[7] = -5.0f;
  logits[33] = -6.0f;
  EXPECT_EQ(MaxLogit(logits), -5.0f);
  EXPECT_EQ(MaxLogit({}), -kInf);
}

TEST(MassSum, IsTheSumOfTheMasses) {
  const std::vector<float> logits = testing::RandomLogits(1003, 6);
  std::vector<uint64_t> masses(logits.size());
  Masses(logits, 10.0, 0.7, masses.data());
  uint64_t sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const uint64_t mass = MassOf((double(logits[i]) - 10.0) * 0.7);
    EXPECT_EQ(masses[i], mass);
    sum += mass;
  }
  EXPECT_EQ(MassSum(logits, 10.0, 0.7), sum);
}

}  // namespace
}  // namespace echelon
