#include "kernels/thread_pool.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/check.h"

namespace echelon {

namespace {
// Long enough for the short single-threaded ops between two parallel ones (a norm of one row takes
// well under 10 us), short enough that a waiting thread wastes less than a scheduler's tick.
constexpr std::chrono::microseconds kSpin{50};

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// What a waiting thread asks for between two looks at whether it still waits: 16 lines, as many as
// a core can wait for at once, some 100 ns.
constexpr uintptr_t kPieceBytes = 1024;
constexpr uint64_t kRangesMask = 0xffffffff;  // of Region::left
}  // namespace

// Spins until `done()` or until the spin time is over; true when done.
template <typename Done>
bool ThreadPool::SpinUntil(int thread, Done done) {
  for (int i = 0; i < 64; ++i) {
    if (done()) return true;
    if (!ReadPieceAhead(thread)) Pause();
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (std::chrono::steady_clock::now() < deadline) {
    for (int i = 0; i < 8; ++i) {
      if (done()) return true;
      if (!ReadPieceAhead(thread)) Pause();
    }
  }
  return done();
}

void ThreadPool::TellAhead(int thread, std::span<const std::byte> bytes) {
  Ahead& ahead = ahead_[thread];
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  ahead.at.store(0, std::memory_order_relaxed);  // nothing until both are set
  ahead.end.store(begin + bytes.size(), std::memory_order_relaxed);
  ahead.at.store(begin, std::memory_order_release);
}

bool ThreadPool::ReadPieceAhead(int thread) {
  Ahead& ahead = ahead_[thread];
  uintptr_t at = ahead.at.load(std::memory_order_acquire);
  const uintptr_t end = ahead.end.load(std::memory_order_relaxed);
  if (at == 0 || at >= end) return false;
  const uintptr_t next = std::min(at + kPieceBytes, end);
  // Told something else meanwhile: that is what to read.
  if (!ahead.at.compare_exchange_strong(at, next, std::memory_order_acq_rel)) return true;
  for (; at < next; at += 64) __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
  return true;
}

ThreadPool::ThreadPool(int threads)
    : regions_(static_cast<size_t>(std::max(threads, 1))), ahead_(regions_.size()) {
  CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  sequence_.fetch_add(1);
  sequence_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunJob() {
  const int64_t ranges = RangesOf(job_.count, job_.grain);
  CHECK(static_cast<uint64_t>(ranges) <= kRangesMask);
  for (int i = 0; i < threads(); ++i) {
    const auto begin = static_cast<uint64_t>(FirstRange(ranges, i));
    const auto end = static_cast<uint64_t>(FirstRange(ranges, i + 1));
    regions_[i].left.store(begin << 32 | end, std::memory_order_relaxed);
  }
  state_.store(kOpen, std::memory_order_release);
  sequence_.fetch_add(1, std::memory_order_release);
  sequence_.notify_all();
  TakeRanges(0);
  // No range is left. Closing keeps late threads out; those inside finish what they took.
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto empty = [this] { return state_.load(std::memory_order_acquire) == 0; };
  while (!SpinUntil(0, empty)) {
    const uint32_t inside = state_.load(std::memory_order_acquire);
    if (inside != 0) state_.wait(inside, std::memory_order_acquire);
  }
}

void ThreadPool::TakeRanges(int thread) {
  const Job& job = job_;
  for (int i = 0; i < threads(); ++i) {
    Region& region = regions_[(thread + i) % threads()];
    for (int64_t range; (range = TakeRange(region, i == 0)) >= 0;) {
      const int64_t begin = range * job.grain;
      job.call(job.context, begin, std::min(begin + job.grain, job.count), thread);
      if (thread == 0 && turn_) turn_();
    }
  }
}

int64_t ThreadPool::TakeRange(Region& region, bool own) {
  uint64_t left = region.left.load(std::memory_order_relaxed);
  while (true) {
    const uint64_t next = left >> 32, end = left & kRangesMask;
    if (next >= end) return -1;
    const uint64_t rest = own ? (next + 1) << 32 | end : next << 32 | (end - 1);
    if (region.left.compare_exchange_weak(left, rest, std::memory_order_relaxed)) {
      return static_cast<int64_t>(own ? next : end - 1);
    }
  }
}

bool ThreadPool::Enter() {
  uint32_t state = state_.load(std::memory_order_acquire);
  while ((state & kOpen) != 0) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
  }
  return false;
}

void ThreadPool::Leave() {
  // The last one out of a closed job wakes the caller, who may have gone to sleep.
  if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_all();
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    const auto changed = [&] { return sequence_.load(std::memory_order_acquire) != seen; };
    if (!SpinUntil(thread, changed)) sequence_.wait(seen, std::memory_order_acquire);
    seen = sequence_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    if (Enter()) {
      TakeRanges(thread);
      Leave();
    }
  }
}

}  // namespace echelon
