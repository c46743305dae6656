#pragma once
// LongWait: whom a rank has been waiting for, while it waits for long. Its driving thread writes,
// any thread reads: heartbeats carry it, so that a step that does not end can be told from a link
// or a rank that does not answer.

#include <chrono>
#include <mutex>
#include <span>
#include <vector>

namespace echelon {

class LongWait {
 public:
  struct Seen {
    std::chrono::milliseconds waited{0};
    std::vector<int> ranks;  // of the world: one of them or more have not sent; empty: no wait
  };

  void Begin(std::span<const int> ranks) {
    const std::lock_guard lock(mutex_);
    since_ = std::chrono::steady_clock::now();
    ranks_.assign(ranks.begin(), ranks.end());
  }
  void End() {
    const std::lock_guard lock(mutex_);
    ranks_.clear();
  }
  Seen Get() const {
    const std::lock_guard lock(mutex_);
    if (ranks_.empty()) return {};
    const auto waited = std::chrono::steady_clock::now() - since_;
    return {std::chrono::duration_cast<std::chrono::milliseconds>(waited), ranks_};
  }

 private:
  mutable std::mutex mutex_;
  std::chrono::steady_clock::time_point since_;  // guarded by mutex_
  std::vector<int> ranks_;                       // guarded by mutex_
};

}  // namespace echelon
