#pragma once
// ThreadPool: the threads of one CPU backend. One host thread calls ParallelFor and works along;
// the pool's own threads join in while there is work. Between jobs they spin for a few tens of
// microseconds (the next op of a decode step comes sooner) and then sleep, so that an idle backend
// uses no processor. Each thread begins in a region of its own and goes on where others have not
// been yet, from the far end of their regions: neighbouring ranges come to one thread, whose
// prefetches of what lies ahead are then its own (decode of one stream took 0.89 of the time that
// ranges handed out in turn took). A thread that waits for the next job reads ahead what it has
// been told to. The caller waits only for threads that took part of the work: one that the system
// has not scheduled yet costs nothing, which is what keeps an oversubscribed machine usable. Lives
// as long as its backend; the destructor joins.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
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
  // long, on any thread (0 <= thread < threads(), 0 is the caller); the elements' number over grain
  // fits 32 bits. Returns when all are done.
  // Which thread takes which range is not determined: results must not depend on it.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (workers_.empty() || count <= grain) {
      ReadAhead();
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

  // The first element of a thread's region of such a job (thread = threads(): count).
  int64_t RegionBegin(int64_t count, int64_t grain, int thread) const {
    const int64_t begin = FirstRange(RangesOf(count, grain), thread) * grain;
    return begin < count ? begin : count;
  }

  // What a thread's next job reads, the first bytes first: while it has nothing else to do it asks
  // memory for them, into its second-level cache. Replaces what it was told before. The bytes need
  // not exist any more when it does: asking for an address cannot fail.
  void TellAhead(int thread, std::span<const std::byte> bytes);
  // The caller's turn to read ahead, a piece of 1 KiB; false when there is nothing left.
  bool ReadAhead() { return ReadPieceAhead(0); }

 private:
  struct Job {
    void (*call)(void* context, int64_t begin, int64_t end, int thread) = nullptr;
    void* context = nullptr;
    int64_t count = 0;
    int64_t grain = 1;
  };

  static int64_t RangesOf(int64_t count, int64_t grain) { return (count + grain - 1) / grain; }
  int64_t FirstRange(int64_t ranges, int thread) const { return ranges * thread / threads(); }
  void RunJob();
  void TakeRanges(int thread);
  bool ReadPieceAhead(int thread);
  template <typename Done>
  bool SpinUntil(int thread, Done done);
  void WorkerLoop(int thread);
  bool Enter();  // true: this thread is counted in, and must Leave()
  void Leave();

  static constexpr uint32_t kOpen = 1u << 31;  // of state_; the rest counts threads inside

  // A thread's share of the job, as ranges that nobody has taken: the first of them in the upper 32
  // bits, the end in the lower. Its owner takes the first; others the last, which the owner's
  // prefetches have not reached.
  struct alignas(64) Region {
    std::atomic<uint64_t> left{0};
  };
  static int64_t TakeRange(Region& region, bool own);  // -1: none is left
  // What a thread reads ahead: addresses that it moves on itself. Told and read at the same time
  // they may not fit each other, which costs a wrong prefetch.
  struct alignas(64) Ahead {
    std::atomic<uintptr_t> at{0}, end{0};
  };

  std::function<void()> turn_;
  Job job_;  // job_ and the regions are written only while the job is closed and empty
  std::vector<Region> regions_;                    // one a thread
  std::vector<Ahead> ahead_;                       // one a thread
  alignas(64) std::atomic<uint32_t> state_{0};     // kOpen | threads inside the job
  alignas(64) std::atomic<uint32_t> sequence_{0};  // jobs started; sleepers wait for a change
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace echelon
