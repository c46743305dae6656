#include "worker/plan_channel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

std::string PlanOf(size_t bytes) {
  std::string plan(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) plan[i] = static_cast<char>(i * 31 + bytes);
  return plan;
}

// Around the size that fits in the first message (2048 - 8), far beyond it, and in any order.
TEST(PlanChannel, HandsEveryPlanToEveryRankInOrder) {
  const size_t sizes[] = {1, 100, 2039, 2040, 2041, 5, 1'000'000, 2048, 7};
  constexpr int kRanks = 3;
  auto ranks = MakeLocalCommunicators(kRanks);
  std::vector<std::vector<std::string>> got(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      PlanChannel channel(*ranks[rank]);
      if (rank == 0) {
        for (const size_t size : sizes) channel.Publish(PlanOf(size));
        channel.PublishEnd();
        return;
      }
      while (auto plan = channel.Next()) got[rank].push_back(std::move(*plan));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int rank = 1; rank < kRanks; ++rank) {
    ASSERT_EQ(got[rank].size(), std::size(sizes));
    for (size_t i = 0; i < std::size(sizes); ++i) EXPECT_EQ(got[rank][i], PlanOf(sizes[i]));
  }
}

// A rank that has something else to do meanwhile.
TEST(PlanChannel, SaysWhenAPlanHasCome) {
  auto ranks = MakeLocalCommunicators(2);
  std::atomic<bool> looked = false;
  std::thread follower([&] {
    PlanChannel channel(*ranks[1]);
    EXPECT_FALSE(channel.Ready());
    looked = true;
    while (!channel.Ready()) std::this_thread::yield();
    EXPECT_TRUE(channel.Ready());
    EXPECT_EQ(channel.Next(), PlanOf(3000));
    EXPECT_EQ(channel.Next(), PlanOf(4));  // without being asked before
    while (!channel.Ready()) std::this_thread::yield();
    EXPECT_EQ(channel.Next(), std::nullopt);
  });
  PlanChannel lead(*ranks[0]);
  while (!looked) std::this_thread::yield();
  lead.Publish(PlanOf(3000));
  lead.Publish(PlanOf(4));
  lead.PublishEnd();
  follower.join();
}

}  // namespace
}  // namespace echelon
