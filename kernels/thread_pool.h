#pragma once
// ThreadPool: the threads of one CPU backend. One host thread calls ParallelFor and works along;
// the pool's own threads join in while there is work. Between jobs they spin for a few tens of
// microseconds (the next op of a decode step comes sooner) and then sleep, so that an idle backend
// uses no processor. Each thread begins in a region of its own and goes on where others have not
// been yet: neighbouring ranges come to one thread, whose prefetches of what lies ahead are then
// its own (decode of one stream took 0.89 of the time that ranges handed out in turn took). The
// caller waits only for threads that took part of the work: one that the system has not scheduled
// yet costs nothing, which is what keeps an oversubscribed machine usable. Lives as long as its
// backend; the destructor joins.

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace echelon {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // the caller included, at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // What the caller does after each of its own ranges (Backend::SetTurn); empty: nothing.
  void SetTurn(std::function<void()> turn) { turn_ = std::move(turn); }

  // Calls body(begin, end, thread) for disjoint ranges that cover [0, count), each at most `grain`
  // long, on any thread (0 <= thread < threads(), 0 is the caller). Returns when all are done.
  // Which thread takes which range is not determined: results must not depend on it.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (workers_.empty() || count <= grain) {
      for (int64_t begin = 0; begin < count; begin += grain) {
        body(begin, begin + grain < count ? begin + grain : count, 0);
        if (turn_) turn_();
      }
      return;
    }
    job_.context = &body;
    job_.call = [](void* context, int64_t begin, int64_t end, int thread) {
      (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end, thread);
    };
    job_.count = count;
    job_.grain = grain;
    RunJob();
  }

 private:
  struct Job {
    void (*call)(void* context, int64_t begin, int64_t end, int thread) = nullptr;
    void* context = nullptr;
    int64_t count = 0;
    int64_t grain = 1;
  };

  void RunJob();
  void TakeRanges(int thread);
  void WorkerLoop(int thread);
  bool Enter();  // true: this thread is counted in, and must Leave()
  void Leave();

  static constexpr uint32_t kOpen = 1u << 31;  // of state_; the rest counts threads inside

  // A thread's share of the elements: what it takes first, in order.
  struct alignas(64) Region {
    std::atomic<int64_t> next{0};  // first element that nobody has taken
    int64_t end = 0;
  };

  std::function<void()> turn_;
  Job job_;  // job_ and the regions are written only while the job is closed and empty
  std::vector<Region> regions_;                    // one a thread
  alignas(64) std::atomic<uint32_t> state_{0};     // kOpen | threads inside the job
  alignas(64) std::atomic<uint32_t> sequence_{0};  // jobs started; sleepers wait for a change
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace echelon
