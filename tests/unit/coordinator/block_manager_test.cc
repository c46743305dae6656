#include "coordinator/block_manager.h"

#include <gtest/gtest.h>

#include <set>

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

TEST(BlockManager, HashGoesWithTheContent) {
  BlockManager blocks(2, 4);
  const int32_t page = blocks.Append(1, 1)[0];
  EXPECT_EQ(blocks.HashOf(page), 0u);
  blocks.SetHash(1, 0, 77);
  EXPECT_EQ(blocks.HashOf(page), 77u);
  blocks.Free(1);
  EXPECT_EQ(blocks.HashOf(page), 0u);
}

TEST(BlockManagerDeathTest, MorePagesThanFreeIsABug) {
  BlockManager blocks(2, 4);
  EXPECT_DEATH(blocks.Append(1, 3), "pages_free");
}

}  // namespace
}  // namespace echelon
