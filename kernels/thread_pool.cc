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

// Spins until `done()` or until the spin time is over; true when done.
template <typename Done>
bool SpinUntil(Done done) {
  for (int i = 0; i < 64; ++i) {
    if (done()) return true;
    Pause();
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (std::chrono::steady_clock::now() < deadline) {
    for (int i = 0; i < 8; ++i) {
      if (done()) return true;
      Pause();
    }
  }
  return done();
}
}  // namespace

ThreadPool::ThreadPool(int threads) : regions_(static_cast<size_t>(std::max(threads, 1))) {
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
  const int64_t ranges = (job_.count + job_.grain - 1) / job_.grain;
  int64_t begin = 0;
  for (int i = 0; i < threads(); ++i) {
    regions_[i].next.store(begin, std::memory_order_relaxed);
    begin = std::min(job_.count, ranges * (i + 1) / threads() * job_.grain);
    regions_[i].end = begin;
  }
  state_.store(kOpen, std::memory_order_release);
  sequence_.fetch_add(1, std::memory_order_release);
  sequence_.notify_all();
  TakeRanges(0);
  // No range is left. Closing keeps late threads out; those inside finish what they took.
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto empty = [this] { return state_.load(std::memory_order_acquire) == 0; };
  while (!SpinUntil(empty)) {
    const uint32_t inside = state_.load(std::memory_order_acquire);
    if (inside != 0) state_.wait(inside, std::memory_order_acquire);
  }
}

void ThreadPool::TakeRanges(int thread) {
  const Job& job = job_;
  for (int i = 0; i < threads(); ++i) {
    Region& region = regions_[(thread + i) % threads()];
    while (true) {
      const int64_t begin = region.next.fetch_add(job.grain, std::memory_order_relaxed);
      if (begin >= region.end) break;
      job.call(job.context, begin, std::min(begin + job.grain, region.end), thread);
      if (thread == 0 && turn_) turn_();
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
    if (!SpinUntil(changed)) sequence_.wait(seen, std::memory_order_acquire);
    seen = sequence_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    if (Enter()) {
      TakeRanges(thread);
      Leave();
    }
  }
}

}  // namespace echelon
