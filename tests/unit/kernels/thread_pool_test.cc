#include "kernels/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace echelon {
namespace {

TEST(ThreadPool, CoversEveryElementOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64}) {
        std::vector<std::atomic<int>> touched(static_cast<size_t>(count));
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
          ASSERT_LE(end - begin, grain);
          ASSERT_GE(thread, 0);
          ASSERT_LT(thread, threads);
          for (int64_t i = begin; i < end; ++i) touched[i].fetch_add(1);
        });
        for (const auto& times : touched) ASSERT_EQ(times.load(), 1);
      }
    }
  }
}

// Thousands of small jobs, more threads than cores: late threads must never see a finished job.
TEST(ThreadPool, ManyJobsOnAnOversubscribedMachine) {
  ThreadPool pool(8);
  int64_t total = 0;
  for (int job = 0; job < 5000; ++job) {
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(16, 1, [&, job](int64_t i, int64_t, int) { sum.fetch_add(i * job); });
    total += sum.load();
  }
  EXPECT_EQ(total, int64_t{120} * 5000 * 4999 / 2);
}

TEST(ThreadPool, TheCallerTakesATurnAfterEachOfItsRanges) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const std::thread::id caller = std::this_thread::get_id();
    int turns = 0, ranges = 0;
    pool.SetTurn([&] {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      ++turns;
    });
    pool.ParallelFor(100, 7, [&](int64_t, int64_t, int thread) { ranges += thread == 0 ? 1 : 0; });
    EXPECT_GT(turns, 0);
    EXPECT_EQ(turns, ranges) << threads;
    pool.SetTurn({});
    pool.ParallelFor(100, 7, [](int64_t, int64_t, int) {});
    EXPECT_EQ(turns, ranges) << "none any more";
  }
}

TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(4);
  pool.ParallelFor(100, 1, [](int64_t, int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the spin ends after 50 us
  const auto used = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec * 1e3 + static_cast<double>(usage.ru_utime.tv_usec) / 1e3 +
           usage.ru_stime.tv_sec * 1e3 + static_cast<double>(usage.ru_stime.tv_usec) / 1e3;
  };
  const double before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(used() - before, 20.0) << "ms of processor time in 200 ms of idling";
}

}  // namespace
}  // namespace echelon
