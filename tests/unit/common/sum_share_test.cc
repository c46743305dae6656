#include "common/sum_share.h"

#include <gtest/gtest.h>

namespace echelon {
namespace {

TEST(ShareOf, OneHostSharesOutWhatIsLarge) {
  EXPECT_EQ(ShareOf(1, 2, 2304), SumShare::kEach);
  EXPECT_EQ(ShareOf(1, 2, 1 << 30), SumShare::kEach);  // the same copies, one hand-over
  EXPECT_EQ(ShareOf(1, 3, 2304), SumShare::kEach);
  EXPECT_EQ(ShareOf(1, 3, 1 << 20), SumShare::kHost);
  EXPECT_EQ(ShareOf(1, 8, int64_t{1} << 32), SumShare::kHost);
}

TEST(ShareOf, BetweenHostsTheSizeDecidesHowOftenIsExchanged) {
  EXPECT_EQ(ShareOf(2, 1, 1 << 30), SumShare::kEach);  // two hosts: the same bytes, one exchange
  EXPECT_EQ(ShareOf(2, 4, 4), SumShare::kHost);
  EXPECT_EQ(ShareOf(2, 4, 1 << 30), SumShare::kHost);
  EXPECT_EQ(ShareOf(8, 1, 2304), SumShare::kEach);
  EXPECT_EQ(ShareOf(8, 1, 1 << 20), SumShare::kGroup);
  EXPECT_EQ(ShareOf(3, 2, 2304), SumShare::kHost);
  EXPECT_EQ(ShareOf(3, 2, 1 << 20), SumShare::kGroup);
}

TEST(OneExchangeBytesMax, ShrinksWithTheHosts) {
  EXPECT_EQ(OneExchangeBytesMax(1), INT64_MAX);
  EXPECT_EQ(OneExchangeBytesMax(2), INT64_MAX);
  EXPECT_EQ(OneExchangeBytesMax(3), 98'304);
  EXPECT_EQ(OneExchangeBytesMax(8), 12'483);
}

}  // namespace
}  // namespace echelon
