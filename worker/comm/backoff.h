#pragma once
// Backoff: how a thread waits for something that only polling can see. It spins while the answer is
// likely to come within a sub-block's imbalance, then sleeps for a sixteenth of the time waited so
// far: waiting adds at most 6 % to a delay, and an idle rank wakes 250 times a second (250 polls of
// some 10 us = 0.3 % of a core). It never yields instead: on a busy machine that hands the core to
// another program for milliseconds, while a sleeper that wakes up is let in first.

#include <cstdint>

namespace echelon {

// For ranks that have a core each: half a decode sub-block of a small model (some 100 us).
inline constexpr int64_t kSpinNs = 60'000;
// For ranks that share cores: the one waited for needs this very core.
inline constexpr int64_t kSpinSharedNs = 2'000;

class Backoff {
 public:
  explicit Backoff(int64_t spin_ns);
  void Pause();  // call after each poll that found nothing

 private:
  const int64_t spin_ns_;
  const int64_t begin_ns_;
};

}  // namespace echelon
