#include "worker/comm/backoff.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace echelon {

namespace {

constexpr int64_t kSpinNs = 20'000;      // about one TCP loopback latency (14 us)
constexpr int64_t kYieldNs = 1'000'000;  // a neighbour's sub-block on a shared core
constexpr int64_t kSleepMaxNs = 4'000'000;

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000ll + now.tv_nsec;
}

}  // namespace

Backoff::Backoff() : begin_ns_(NowNs()) {}

void Backoff::Pause() {
  const int64_t waited = NowNs() - begin_ns_;
  if (waited < kSpinNs) return;
  if (waited < kYieldNs) {
    sched_yield();
    return;
  }
  const timespec nap{0, std::min(kSleepMaxNs, waited / 16)};
  nanosleep(&nap, nullptr);
}

}  // namespace echelon
