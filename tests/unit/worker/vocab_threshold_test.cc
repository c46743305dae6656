#include "worker/vocab_threshold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "kernels/exact_math.h"
#include "kernels/threshold_math.h"
#include "tests/unit/worker/vocab_ranks.h"

namespace echelon {
namespace {

// All ranks' answer; they must agree.
std::vector<uint32_t> Thresholds(const std::vector<float>& logits,
                                 const std::vector<ThresholdRow>& rows, int tp) {
  std::vector<std::vector<uint32_t>> found;
  std::mutex mutex;
  testing::OnVocabRanks(static_cast<int64_t>(logits.size()), tp,
                        [&](Range part, Communicator& comm) {
                          std::vector<ThresholdRow> mine = rows;
                          for (auto& row : mine)
                            row.logits = std::span(logits).subspan(part.begin, part.size());
                          VocabExchange exchange(comm);
                          auto keys = FindThresholds(mine, exchange);
                          const std::lock_guard lock(mutex);
                          found.push_back(std::move(keys));
                        });
  for (const auto& keys : found) EXPECT_EQ(keys, found[0]);
  return found[0];
}

TEST(FindThresholds, TopKIsTheKthGreatest) {
  const std::vector<float> logits = testing::RandomLogits(517, 4);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  std::vector<ThresholdRow> rows;
  for (const uint64_t k : {1, 2, 5, 40, 516, 517}) {
    ThresholdRow row;
    row.count = k;
    rows.push_back(row);
  }
  for (const int tp : {1, 2, 3, 7}) {
    const auto keys = Thresholds(logits, rows, tp);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(keys[i], OrderKey(sorted[rows[i].count - 1])) << "k = " << rows[i].count;
    }
  }
}

TEST(FindThresholds, MoreThanThereAreKeepsAll) {
  ThresholdRow row;
  row.count = 1000;
  EXPECT_EQ(Thresholds(testing::RandomLogits(100, 1), {row}, 2)[0], 0u);
}

// The nucleus by definition: the fewest values from the top whose masses reach the share.
TEST(FindThresholds, TopPIsTheSmallestNucleus) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const std::vector<float> logits = testing::RandomLogits(700, seed);
    std::vector<float> sorted = logits;
    std::sort(sorted.rbegin(), sorted.rend());
    for (const float share : {0.0f, 0.1f, 0.5f, 0.9f, 0.999f}) {
      for (const double inverse_temperature : {0.5, 1.0, 3.0}) {
        ThresholdRow row;
        row.by_mass = true;
        row.max = sorted[0];
        row.inverse_temperature = inverse_temperature;
        row.share = share;
        uint64_t total = 0;
        for (const float l : sorted) total += MassOf((l - row.max) * inverse_temperature);
        const auto target = static_cast<uint64_t>(std::max(1.0, double(share) * double(total)));
        uint64_t reached = 0;
        size_t count = 0;
        while (reached < target)
          reached += MassOf((sorted[count++] - row.max) * inverse_temperature);
        for (const int tp : {1, 3}) {
          EXPECT_EQ(Thresholds(logits, {row}, tp)[0], OrderKey(sorted[count - 1]))
              << "seed " << seed << " share " << share;
        }
      }
    }
  }
}

TEST(FindThresholds, TopPLooksOnlyAtWhatTopKLeft) {
  // Masses 1/2, 1/4, 1/8, 1/8 of what is kept; without the bound the tail of 600 ties would count.
  std::vector<float> logits(604, static_cast<float>(std::log(0.1)));
  const float kept[] = {std::log(4.0f), std::log(2.0f), 0.0f, 0.0f};
  std::copy(std::begin(kept), std::end(kept), logits.begin() + 300);
  ThresholdRow row;
  row.by_mass = true;
  row.max = kept[0];
  row.key_min = OrderKey(0.0f);
  row.share = 0.7f;
  EXPECT_EQ(Thresholds(logits, {row}, 2)[0], OrderKey(kept[1]));
  row.key_min = 0;
  EXPECT_EQ(Thresholds(logits, {row}, 2)[0], OrderKey(logits[0]));
}

}  // namespace
}  // namespace echelon
