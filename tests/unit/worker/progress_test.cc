#include "worker/comm/progress.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace echelon {
namespace {

TEST(Progress, AnotherThreadSeesWhomARankWaitsForAndForHowLong) {
  Progress progress(HostPlace{}, kOwnCore);
  const std::shared_ptr<const LongWait> wait = progress.long_wait();
  EXPECT_TRUE(wait->Get().ranks.empty());
  std::atomic<bool> seen = false;
  LongWait::Seen first, later;
  std::thread watcher([&] {
    while ((first = wait->Get()).ranks.empty()) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    later = wait->Get();
    seen = true;
  });
  const int awaited[] = {1, 3};
  progress.WaitUntil([&] { return seen.load(); }, {}, awaited);
  watcher.join();
  EXPECT_EQ(first.ranks, (std::vector<int>{1, 3}));
  EXPECT_GE(later.waited.count(), 19);
  EXPECT_TRUE(wait->Get().ranks.empty()) << "it waits no more";
}

TEST(Progress, AShortWaitIsNotWorthAWord) {
  Progress progress(HostPlace{}, kOwnCore);
  const int awaited[] = {1};
  int looks = 0;
  bool told = false;
  progress.WaitUntil(
      [&] {
        told = told || !progress.long_wait()->Get().ranks.empty();
        return ++looks == 3;
      },
      {}, awaited);
  EXPECT_FALSE(told);
}

}  // namespace
}  // namespace echelon
