#include "worker/comm/progress.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace echelon {

namespace {

constexpr int64_t kNapMaxNs = 4'000'000;  // an idle rank polls 250 times a second: 0.3 % of a core
constexpr int64_t kSleepNs = 1'000'000'000;  // when only a bell can end the wait

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000ll + now.tv_nsec;
}

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

void Progress::Advance() {
  for (Progressing* communicator : all_) communicator->Advance();
}

bool Progress::in_flight() const {
  return std::any_of(all_.begin(), all_.end(),
                     [](const Progressing* one) { return one->in_flight(); });
}

bool Progress::AwaitsOtherHosts() const {
  return std::any_of(all_.begin(), all_.end(),
                     [](const Progressing* one) { return one->awaits_other_hosts(); });
}

double Progress::ComputeSeconds() const {
  return static_cast<double>((waiting_ ? wait_began_ns_ : NowNs()) - waited_ns_) * 1e-9;
}

double Progress::WaitUntil(const std::function<bool()>& done, const std::function<bool()>& idle,
                           std::span<const int> awaited) {
  wait_began_ns_ = NowNs();
  waiting_ = true;
  Advance();
  if (!done()) WaitPatiently(done, idle, awaited);
  waiting_ = false;
  const int64_t waited = NowNs() - wait_began_ns_;
  waited_ns_ += waited;
  return static_cast<double>(waited) * 1e-9;
}

void Progress::WaitPatiently(const std::function<bool()>& done, const std::function<bool()>& idle,
                             std::span<const int> awaited) {
  bool told = false;
  for (;;) {
    Advance();
    if (done()) break;
    if (idle && idle()) continue;
    const int64_t waited = NowNs() - wait_began_ns_;
    if (waited < patience_.spin_ns) {
      Pause();
      continue;
    }
    if (waited >= kRingNs && !std::exchange(told, true)) long_wait_->Begin(awaited);
    Sleep(waited, done);
  }
  if (told) long_wait_->End();
}

void Progress::Sleep(int64_t waited_ns, const std::function<bool()>& done) {
  if (waited_ns < kRingNs || !place_.bells || AwaitsOtherHosts()) {
    const timespec nap{0, std::clamp(waited_ns / 16, patience_.nap_min_ns, kNapMaxNs)};
    nanosleep(&nap, nullptr);
    return;
  }
  Bell& bell = BellOf(place_.seat);
  const uint32_t armed = bell.Arm();
  Advance();  // what came before the bell was armed rings nobody
  if (!done()) bell.Sleep(armed, kSleepNs);
  bell.Disarm();
}

Patience PatienceFor(int ranks_on_host) {
  cpu_set_t cores;
  const bool known = sched_getaffinity(0, sizeof(cores), &cores) == 0;
  return known && ranks_on_host <= CPU_COUNT(&cores) ? kOwnCore : kSharedCore;
}

}  // namespace echelon
