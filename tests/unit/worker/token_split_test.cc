#include "worker/token_split.h"

#include <gtest/gtest.h>

#include <numeric>

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

class TokenSplitTest : public ::testing::Test {
 protected:
  TokenSplitTest() {
    checkpoint_ = TinyDummy(tiny_, folder_.path());
    model_ = checkpoint_->config();
  }
  TokenSplit Make(std::vector<SplitTimes> times,
                  TokenSplitMode mode = TokenSplitMode::kAuto) const {
    return {model_, mode, std::move(times)};
  }
  TinyModel tiny_;
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig model_;
};

TEST_F(TokenSplitTest, PartsCostTheSame) {
  TokenSplit split = Make({}, TokenSplitMode::kOn);
  EXPECT_EQ(split.Begin(Prompt(1)), 0);
  EXPECT_EQ(split.Begin(Prompt(2)), 1);
  EXPECT_EQ(split.Begin(Decodes({5, 5, 5, 5, 5, 5})), 3);
  EXPECT_EQ(split.Begin(Decodes({100'000, 5, 5, 5})), 1);
  EXPECT_EQ(split.Begin(Decodes({5, 5, 5, 100'000})), 3);
  // Late rows of a long prompt see more: the first part has more rows.
  const int64_t cut = split.Begin(Prompt(4096));
  EXPECT_GT(cut, 2048);
  EXPECT_LT(cut, 3500);
  EXPECT_EQ(cut % 16, 0);
  EXPECT_EQ(split.Took(1.0), std::nullopt);
  EXPECT_EQ(Make({}, TokenSplitMode::kOff).Begin(Prompt(512)), 0);
}

TEST_F(TokenSplitTest, SplitsWhereItWasFaster) {
  TokenSplit split = Make({{2, 1.0, 1.5}, {8, 1.0, 1.1}, {32, 2.0, 1.6}});
  for (const int rows : {1, 2, 5, 8, 15}) EXPECT_EQ(split.Begin(Prompt(rows)), 0) << rows;
  for (const int rows : {16, 32, 500}) EXPECT_GT(split.Begin(Prompt(rows)), 0) << rows;
  EXPECT_EQ(Make({}).Begin(Prompt(128)), 0);
}

TEST_F(TokenSplitTest, OneRowIsNoTrial) {
  TokenSplit split = Make({});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(split.Begin(Prompt(1)), 0);
    EXPECT_EQ(split.Took(1.0), std::nullopt);
  }
}

TEST_F(TokenSplitTest, SaysWhatItMeasured) {
  EXPECT_EQ(Make({{2, 1.5e-3, 2e-3}, {8, 3e-3, 2.5e-3}}).Describe(),
            "a layer in two parts and in one, us: 2 rows 2000/1500, 8 rows 2500/3000");
  EXPECT_EQ(Make({}, TokenSplitMode::kOn).Describe(), "");
}

}  // namespace
}  // namespace echelon
