#include "worker/comm/backoff.h"

#include <time.h>

#include <algorithm>

namespace echelon {

namespace {

constexpr int64_t kSleepMinNs = 5'000;
constexpr int64_t kSleepMaxNs = 4'000'000;

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000ll + now.tv_nsec;
}

}  // namespace

Backoff::Backoff(int64_t spin_ns) : spin_ns_(spin_ns), begin_ns_(NowNs()) {}

void Backoff::Pause() {
  const int64_t waited = NowNs() - begin_ns_;
  if (waited < spin_ns_) return;
  const timespec nap{0, std::clamp(waited / 16, kSleepMinNs, kSleepMaxNs)};
  nanosleep(&nap, nullptr);
}

}  // namespace echelon
