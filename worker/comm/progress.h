#pragma once
// Progress: what the communicators of one rank have in common: its place on its host, all
// operations that are under way, and the one way to wait. A wait moves every communicator of the
// rank on, not only the one waited for: a message that did not fit its stream goes on while its
// sender waits for something else. One thread.
//
// A wait spins while the answer is likely to come within a sub-block's imbalance, then naps for a
// sixteenth of the time waited so far, which adds at most 6 % to a delay, and from kRingNs on
// sleeps until a rank of this host rings. Not earlier: waking a sleeper costs the rank that rings a
// system call and an interrupt of another core, in the middle of a step. What comes from other
// hosts only polling can see: while such messages are awaited all sleeps are naps. A wait never
// yields: on a busy machine that hands the core to another program for milliseconds.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/step_rules.h"
#include "worker/comm/bell.h"
#include "worker/comm/long_wait.h"
#include "worker/comm/shared_segment.h"

namespace echelon {

// How a rank waits: it looks all the time for so long, then naps for so long at least.
struct Patience {
  int64_t spin_ns;
  int64_t nap_min_ns;
};
// For ranks that have a core each: half a decode sub-block of a small model (some 100 us).
inline constexpr Patience kOwnCore = {60'000, 5'000};
// For ranks that share cores.
inline constexpr Patience kSharedCore = {2'000, kSharedCoreNapNs};
// A sub-block of a small model is over; awaited is the next plan, or a rank that has no core.
inline constexpr int64_t kRingNs = 2'000'000;

// One communicator's part in the progress of its rank.
class Progressing {
 public:
  virtual ~Progressing() = default;
  virtual void Advance() = 0;
  virtual bool in_flight() const = 0;
  virtual bool awaits_other_hosts() const = 0;
};

// Where a rank sits: ranks with the same `host` share memory and ring each other's bells.
struct HostPlace {
  int host = 0;  // negative for a rank that shares with nobody: -1 - world_rank
  int world_rank = 0;
  int seat = 0;                          // this rank's bell
  std::shared_ptr<SharedSegment> bells;  // (ranks of the host); null: nobody to be woken by
};

class Progress {
 public:
  Progress(HostPlace place, Patience patience) : place_(std::move(place)), patience_(patience) {}

  const HostPlace& place() const { return place_; }
  Bell& BellOf(int seat) const { return reinterpret_cast<Bell*>(place_.bells->data())[seat]; }

  void Add(Progressing* communicator) { all_.push_back(communicator); }
  void Remove(Progressing* communicator) { std::erase(all_, communicator); }
  void Advance();
  bool in_flight() const;  // of any communicator
  // Returns the seconds it took. `idle`: Communicator::SetIdle. `awaited`: of the world, who may be
  // the one waited for.
  double WaitUntil(const std::function<bool()>& done, const std::function<bool()>& idle,
                   std::span<const int> awaited);
  // A clock that stands still while the rank waits.
  double ComputeSeconds() const;
  std::shared_ptr<const LongWait> long_wait() const { return long_wait_; }

 private:
  bool AwaitsOtherHosts() const;
  void WaitPatiently(const std::function<bool()>& done, const std::function<bool()>& idle,
                     std::span<const int> awaited);
  void Sleep(int64_t waited_ns, const std::function<bool()>& done);

  const HostPlace place_;
  const Patience patience_;
  const std::shared_ptr<LongWait> long_wait_ = std::make_shared<LongWait>();
  std::vector<Progressing*> all_;
  bool waiting_ = false;
  int64_t wait_began_ns_ = 0;
  int64_t waited_ns_ = 0;  // in the waits before
};

// kOwnCore or kSharedCore, by the cores this process may use.
Patience PatienceFor(int ranks_on_host);

}  // namespace echelon
