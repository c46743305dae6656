#include "coordinator/block_manager.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace echelon {
namespace {

TEST(BlockManager, PagesMissingCountsPartlyFilledPages) {
  BlockManager blocks(10, 4);
  EXPECT_EQ(blocks.PagesMissing(1, 1), 1);
  EXPECT_EQ(blocks.PagesMissing(1, 4), 1);
  EXPECT_EQ(blocks.PagesMissing(1, 5), 2);
  blocks.Append(1, 2);
  EXPECT_EQ(blocks.PagesMissing(1, 8), 0);
  EXPECT_EQ(blocks.PagesMissing(1, 9), 1);
}

TEST(BlockManager, EveryPageIsHandedOutOnce) {
  BlockManager blocks(6, 4);
  std::set<int32_t> pages;
  for (SequenceId id = 1; id <= 3; ++id) {
    for (const int32_t page : blocks.Append(id, 2)) EXPECT_TRUE(pages.insert(page).second);
  }
  EXPECT_EQ(blocks.pages_free(), 0);
  EXPECT_EQ(pages.size(), 6u);
  EXPECT_EQ(*pages.rbegin(), 5);
  blocks.CheckInvariants();
  blocks.Free(2);
  EXPECT_EQ(blocks.pages_free(), 2);
  EXPECT_EQ(blocks.TableOf(2), nullptr);
  blocks.Free(2);  // twice is nothing
  EXPECT_EQ(blocks.pages_free(), 2);
  blocks.CheckInvariants();
}

TEST(BlockManager, SequenceParallelRanksHoldEqualShares) {
  BlockManager blocks(12, 4, /*sp=*/3);
  blocks.Append(1, 7);
  std::multiset<int32_t> used;
  for (int32_t rank = 0; rank < 3; ++rank) used.insert(blocks.pages_used(rank));
  EXPECT_EQ(used, (std::multiset<int32_t>{2, 2, 3}));
  blocks.Free(1);
  for (int32_t rank = 0; rank < 3; ++rank) EXPECT_EQ(blocks.pages_used(rank), 0);
}

TEST(BlockManager, HashGoesWithTheContent) {
  BlockManager blocks(2, 4);
  const int32_t page = blocks.Append(1, 1)[0];
  EXPECT_EQ(blocks.HashOf(page), 0u);
  blocks.SetHash(1, 0, 77);
  EXPECT_EQ(blocks.HashOf(page), 77u);
  blocks.Free(1);
  EXPECT_EQ(blocks.HashOf(page), 0u);
}

// Pages 0 to 3 lie on sp rank 0, 4 to 7 on rank 1, 8 to 11 on rank 2.
TEST(BlockManager, PagesOfASequenceLieOnTheRanksInTurn) {
  BlockManager blocks(12, 4, 3);
  const auto ranks = [&](SequenceId id, int32_t count) {
    std::vector<int32_t> lie;
    for (const int32_t page : blocks.Append(id, count)) lie.push_back(page / 4);
    return lie;
  };
  EXPECT_EQ(ranks(1, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(ranks(1, 3), (std::vector<int32_t>{2, 0, 1})) << "goes on where it ended";
  // Free now: 2, 2, 3.
  EXPECT_EQ(ranks(2, 1), (std::vector<int32_t>{2})) << "begins where most is free";
  EXPECT_EQ(ranks(3, 2), (std::vector<int32_t>{1, 2})) << "where none begins yet";
  // Free now: 2, 1, 1.
  EXPECT_TRUE(blocks.CanAppend(4, 4));
  EXPECT_EQ(ranks(4, 4), (std::vector<int32_t>{0, 1, 2, 0})) << "the only way that fits";
  EXPECT_EQ(blocks.pages_free(), 0);
  blocks.CheckInvariants();
  blocks.Free(2);
  EXPECT_EQ(blocks.pages_free(), 1);
  EXPECT_TRUE(blocks.CanAppend(5, 1));
  EXPECT_TRUE(blocks.CanAppend(1, 1)) << "its next page lies on rank 2";
  EXPECT_FALSE(blocks.CanAppend(4, 1)) << "its next page lies on rank 1";
  blocks.CheckInvariants();
}

TEST(BlockManager, SequencesOfOneLengthBeginOnTheRanksInTurn) {
  BlockManager blocks(24, 4, 2);
  const auto begins = [&](SequenceId id) { return blocks.Append(id, 2).front() / 12; };
  EXPECT_EQ(begins(1), 0);
  EXPECT_EQ(begins(2), 1);
  EXPECT_EQ(begins(3), 0);
  EXPECT_EQ(begins(4), 1);
  blocks.Free(2);
  EXPECT_EQ(begins(5), 1) << "where fewer begin";
  blocks.CheckInvariants();
}

TEST(BlockManagerDeathTest, MorePagesThanFreeIsABug) {
  BlockManager blocks(2, 4);
  EXPECT_DEATH(blocks.Append(1, 3), "pages_free");
}

}  // namespace
}  // namespace echelon
