#include "worker/token_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

#include "common/random.h"
#include "common/run_setup.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

// Rows of one prompt from `start` on, or one row of each of several sequences.
BatchLayout Prompt(int rows, int start = 0) {
  BatchLayout batch;
  batch.ids.resize(rows);
  batch.positions.resize(rows);
  std::iota(batch.positions.begin(), batch.positions.end(), start);
  return batch;
}
BatchLayout Decodes(std::vector<int32_t> positions) {
  BatchLayout batch;
  batch.ids.resize(positions.size());
  batch.positions = std::move(positions);
  return batch;
}

// Compute in proportion to rows, attention nothing: what a case needs is set by it.
SplitRates Rates(double row_s) {
  SplitRates rates;
  for (size_t i = 0; i < SplitRates::kRows.size(); ++i) {
    const double seconds = row_s * SplitRates::kRows[i];
    rates.attention.cold[i] = rates.attention.warm[i] = seconds;
    rates.mlp.cold[i] = rates.mlp.warm[i] = seconds;
  }
  rates.hidden = 1.0;
  return rates;
}

class TokenSplitTest : public ::testing::Test {
 protected:
  TokenSplitTest() {
    tiny_.n_layers = 6;
    checkpoint_ = TinyDummy(tiny_, folder_.path());
    Use("standard");
  }
  void Use(const char* schedule, const char* pattern = "") {
    ModelSettings settings;
    settings.schedule = schedule;
    settings.desync_pattern = pattern;
    model_ = ModelFrom(checkpoint_->config(), settings).value().model;
    layout_.tp = 2;
    part_ = PartOf(model_, layout_, 0);
  }
  TokenSplit Make(const SplitRates& rates, TokenSplitMode mode = TokenSplitMode::kAuto) const {
    return {model_, part_, mode, rates};
  }
  TinyModel tiny_;
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig model_;
  ParallelLayout layout_;
  RankPart part_;
};

// A walk through time: one processor, a link that carries one all-reduce after the other, each
// arriving a latency after its last byte. The naive twin of the decision.
double Walk(const ModelConfig& model, const SplitRates& rates, std::vector<double> part_rows) {
  struct Part {
    std::deque<double> arrives;
  };
  std::vector<Part> parts(part_rows.size());
  double now = 0.0, link_free = 0.0;
  const auto wait = [&](Part& part, int in_flight) {
    while (static_cast<int>(part.arrives.size()) > in_flight) {
      now = std::max(now, part.arrives.front());
      part.arrives.pop_front();
    }
  };
  for (const SubBlockStep& step : MakeSchedule(model).steps) {
    for (size_t i = 0; i < parts.size(); ++i) {
      wait(parts[i], step.in_flight_max);
      now += rates.attention.cold[0] * part_rows[i] * (step.kind == BlockKind::kBoth ? 2 : 1);
      if (step.reduce == ReduceKind::kNone) continue;
      link_free = std::max(now, link_free) + part_rows[i] * model.d_model * 4 * rates.byte_s;
      parts[i].arrives.push_back(link_free + rates.latency_s);
    }
  }
  for (Part& part : parts) wait(part, 0);
  return now;
}

TEST_F(TokenSplitTest, PartsCostTheSame) {
  const TokenSplit split = Make({}, TokenSplitMode::kOn);
  EXPECT_EQ(split.CutOf(Prompt(1)), 0);
  EXPECT_EQ(split.CutOf(Prompt(2)), 1);
  EXPECT_EQ(split.CutOf(Decodes({5, 5, 5, 5, 5, 5})), 3);
  EXPECT_EQ(split.CutOf(Decodes({100'000, 5, 5, 5})), 1);
  EXPECT_EQ(split.CutOf(Decodes({5, 5, 5, 100'000})), 3);
  // Late rows of a long prompt see more: the first part has more rows.
  const int64_t cut = split.CutOf(Prompt(4096));
  EXPECT_GT(cut, 2048);
  EXPECT_LT(cut, 3500);
  EXPECT_EQ(cut % 16, 0);
  EXPECT_EQ(Make({}, TokenSplitMode::kOff).CutOf(Prompt(512)), 0);
}

TEST_F(TokenSplitTest, DecidesAsTheWalkThroughTimeDoes) {
  int split = 0, whole = 0;
  for (const char* schedule : {"standard", "ladder", "parallel", "desync"}) {
    Use(schedule, std::string_view(schedule) == "desync" ? "10" : "");
    for (uint32_t i = 0; i < 400; ++i) {
      const auto power = [&](uint32_t k, double least, double most) {
        const double u = UniformFor(5, 0, i, k);
        return least * std::pow(most / least, u);
      };
      SplitRates rates = Rates(power(0, 1e-6, 1e-4));
      rates.latency_s = power(1, 1e-6, 1e-2);
      rates.byte_s = power(2, 1e-10, 1e-6);
      const int rows = static_cast<int>(power(3, 2, 512));
      const BatchLayout batch = Decodes(std::vector<int32_t>(rows, 0));
      const int64_t cut = Make(rates, TokenSplitMode::kOn).CutOf(batch);
      const double gain = 1.0 - Walk(model_, rates, {1.0 * cut, 1.0 * (rows - cut)}) /
                                    Walk(model_, rates, {1.0 * rows});
      const bool splits = Make(rates).CutOf(batch) > 0;
      (splits ? split : whole) += 1;
      // Beginning and end of the walk are left out of the decision: 1 of 12 sub-blocks.
      if (gain > 0.13) {
        EXPECT_TRUE(splits) << schedule << " " << i << ": " << gain;
      }
      if (gain < -0.05) {
        EXPECT_FALSE(splits) << schedule << " " << i << ": " << gain;
      }
    }
  }
  EXPECT_GT(split, 200);
  EXPECT_GT(whole, 200);
}

TEST_F(TokenSplitTest, CommunicationThatIsWorkDoesNotPay) {
  SplitRates rates = Rates(1e-5);
  rates.latency_s = 1e-4;
  rates.byte_s = 1e-8;
  EXPECT_GT(Make(rates).CutOf(Prompt(256)), 0);
  rates.hidden = 0.0;
  EXPECT_EQ(Make(rates).CutOf(Prompt(256)), 0);
}

// What is computed twice as often: weights that come from memory for either part.
TEST_F(TokenSplitTest, ReadingWeightsTwiceCounts) {
  SplitRates rates;
  rates.hidden = 1.0;
  for (size_t i = 0; i < SplitRates::kRows.size(); ++i) {
    rates.attention.cold[i] = rates.mlp.cold[i] = 1e-3;  // whatever the rows
    rates.attention.warm[i] = rates.mlp.warm[i] = 3e-4;
  }
  rates.byte_s = 8e-4 / (4 * 4 * model_.d_model);  // of four rows: 1.8 ms a sub-block, or 1.4
  EXPECT_GT(Make(rates).CutOf(Decodes({1, 1, 1, 1})), 0) << "the second reading is from a cache";
  rates.attention.warm = rates.attention.cold;
  rates.mlp.warm = rates.mlp.cold;
  EXPECT_EQ(Make(rates).CutOf(Decodes({1, 1, 1, 1})), 0);
}

TEST_F(TokenSplitTest, SaysFromWhereOn) {
  SplitRates rates = Rates(1e-5);
  rates.latency_s = 1e-4;
  rates.byte_s = 1e-8;
  EXPECT_NE(Make(rates).Describe().find("split from 2 rows on"), std::string::npos)
      << Make(rates).Describe();
  EXPECT_NE(Make(Rates(1e-5)).Describe().find("no step is split"), std::string::npos);
  EXPECT_EQ(Make(rates, TokenSplitMode::kOn).Describe(), "");
}

}  // namespace
}  // namespace echelon
