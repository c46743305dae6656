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
    pool.ParallelFor(100, 7, [&](int64_t, int64_t, int thread) {
      if (thread == 0) ++ranges;
    });
    EXPECT_GT(turns, 0);
    EXPECT_EQ(turns, ranges) << threads;
    pool.SetTurn({});
    pool.ParallelFor(100, 7, [](int64_t, int64_t, int) {});
    EXPECT_EQ(turns, ranges) << "none any more";
  }
}

// Each range once, whoever takes it from whichever end of a region.
TEST(ThreadPool, EveryRangeOnceWhenThreadsTakeFromEachOther) {
  ThreadPool pool(4);
  for (int job = 0; job < 300; ++job) {
    std::vector<std::atomic<int>> touched(61);
    pool.ParallelFor(61, 2, [&](int64_t begin, int64_t end, int thread) {
      if (thread == job % 4) std::this_thread::yield();  // this one's region is taken from it
      for (int64_t i = begin; i < end; ++i) touched[i].fetch_add(1);
    });
    for (const auto& times : touched) ASSERT_EQ(times.load(), 1);
  }
}

TEST(ThreadPool, ReadsAheadWhatItWasToldAndNoMore) {
  ThreadPool pool(1);
  EXPECT_FALSE(pool.ReadAhead());
  const std::vector<std::byte> bytes(2500);
  pool.TellAhead(0, bytes);
  EXPECT_TRUE(pool.ReadAhead());
  pool.TellAhead(0, bytes);  // from the beginning again
  for (int piece = 0; piece < 3; ++piece) EXPECT_TRUE(pool.ReadAhead()) << piece;
  EXPECT_FALSE(pool.ReadAhead());
  pool.TellAhead(0, bytes);
  pool.TellAhead(0, {});
  EXPECT_FALSE(pool.ReadAhead());
}

TEST(ThreadPool, RegionsCoverAJob) {
  ThreadPool pool(3);
  EXPECT_EQ(pool.RegionBegin(100, 8, 0), 0);
  EXPECT_EQ(pool.RegionBegin(100, 8, 1), 32);  // 13 ranges: 4, 4 and 5
  EXPECT_EQ(pool.RegionBegin(100, 8, 2), 64);
  EXPECT_EQ(pool.RegionBegin(100, 8, 3), 100);
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
