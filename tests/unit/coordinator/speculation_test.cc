#include "coordinator/speculation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace echelon {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr SpeculationLimits kLimits{.drafts_max = 8, .ngram_max = 3, .ngram_min = 2};

std::vector<int32_t> LookUp(const std::vector<int32_t>& tokens, int32_t count,
                            SpeculationLimits limits = kLimits) {
  return LookUpDrafts(tokens, limits, count);
}

TEST(LookUpDrafts, ContinuesWhatStoodThereBefore) {
  EXPECT_THAT(LookUp({1, 2, 3, 4, 5, 9, 1, 2, 3}, 2), ElementsAre(4, 5));
  EXPECT_THAT(LookUp({1, 2, 3, 4, 5, 9, 2, 3}, 1), ElementsAre(4));  // two of at most three
}

TEST(LookUpDrafts, NothingRecurs) {
  EXPECT_THAT(LookUp({1, 2, 3, 4}, 4), IsEmpty());
  EXPECT_THAT(LookUp({7, 3, 4, 3}, 4), IsEmpty()) << "one token is less than ngram_min";
  EXPECT_THAT(LookUp({}, 4), IsEmpty());
  EXPECT_THAT(LookUp({5}, 4), IsEmpty());
  EXPECT_THAT(LookUp({1, 2, 3, 1, 2}, 0), IsEmpty());
}

TEST(LookUpDrafts, TheLongestMatchWinsThenTheLatest) {
  EXPECT_THAT(LookUp({1, 2, 3, 50, 8, 2, 3, 60, 1, 2, 3}, 1), ElementsAre(50));
  EXPECT_THAT(LookUp({8, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3}, 1), ElementsAre(60));
  EXPECT_THAT(LookUp({4, 1, 2, 3, 50, 5, 1, 2, 3, 60, 4, 1, 2, 3}, 1), ElementsAre(60))
      << "a fourth token is more than ngram_max";
}

TEST(LookUpDrafts, APeriodGoesOn) {
  EXPECT_THAT(LookUp({1, 2, 3, 1, 2, 3}, 7), ElementsAre(1, 2, 3, 1, 2, 3, 1));
  EXPECT_THAT(LookUp({6, 6, 6}, 3), ElementsAre(6, 6, 6));
}

// Against the definition, tried n-gram by n-gram.
TEST(LookUpDrafts, EqualsTheNaiveSearch) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::vector<int32_t> tokens(random() % 30);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 3);
    const int32_t least = 1 + static_cast<int32_t>(random() % 3);
    const SpeculationLimits limits{8, least + static_cast<int32_t>(random() % 3), least};
    std::vector<int32_t> expected;
    const auto size = static_cast<int>(tokens.size());
    for (int n = limits.ngram_max; n >= limits.ngram_min && expected.empty(); --n) {
      for (int begin = size - n - 1; begin >= 0 && expected.empty(); --begin) {
        if (!std::equal(tokens.end() - n, tokens.end(), tokens.begin() + begin)) continue;
        std::vector<int32_t> text = tokens;
        for (int at = begin + n; expected.size() < 5; ++at) {
          expected.push_back(text[at]);
          text.push_back(text[at]);
        }
      }
    }
    EXPECT_EQ(LookUp(tokens, 5, limits), expected) << "case " << i;
  }
}

TEST(DraftPace, DoublesWhileEverythingIsRight) {
  DraftPace pace;
  EXPECT_EQ(pace.DraftsAt(10), 2);
  pace.Learn(10, 2, 2);
  EXPECT_EQ(pace.DraftsAt(13), 4);
  pace.Learn(13, 4, 4);
  EXPECT_EQ(pace.DraftsAt(18), 8);
  pace.Learn(18, 1, 1);  // there was no room for more
  EXPECT_EQ(pace.DraftsAt(20), 8);
  pace.Learn(20, 8, 3);
  EXPECT_EQ(pace.DraftsAt(24), 3);
}

TEST(DraftPace, PausesLongerWithEveryMiss) {
  DraftPace pace;
  std::vector<int32_t> tries;
  for (int32_t known = 0; known < 200; ++known) {
    if (pace.DraftsAt(known) == 0) continue;
    tries.push_back(known);
    pace.Learn(known, pace.DraftsAt(known), 0);
  }
  EXPECT_THAT(tries, ElementsAre(0, 3, 8, 17, 34, 67, 100, 133, 166, 199));
  EXPECT_EQ(pace.DraftsAt(232), 1);
  pace.Learn(232, 1, 1);
  EXPECT_EQ(pace.DraftsAt(234), 2) << "a hit ends the pauses";
}

}  // namespace
}  // namespace echelon
