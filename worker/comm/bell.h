#pragma once
// Bell: how a rank sleeps until another rank of its host has done something, and how the other
// wakes it: a futex in shared memory. Ringing a rank that is awake is one load of a line nobody
// writes meanwhile; so a writer rings after everything it publishes. The sleeper is one thread.
//
// No wake-up is lost: the sleeper announces itself, looks once more, and only then sleeps; a writer
// publishes, and only then looks whether somebody sleeps. Both steps are sequentially consistent,
// so one of the two sees the other.

#include <atomic>
#include <cstdint>

namespace echelon {

class alignas(64) Bell {
 public:
  // Sleeper: Arm, look for what is awaited, then Sleep if it is not there, then Disarm in any case.
  uint32_t Arm();
  void Sleep(uint32_t armed, int64_t timeout_ns);
  void Disarm();
  // Others, after a sequentially consistent store of what they publish.
  void Ring();

 private:
  std::atomic<uint32_t> sleeping_{0};
  std::atomic<uint32_t> rings_{0};
};

static_assert(std::atomic<uint32_t>::is_always_lock_free, "a lock would not be in shared memory");

}  // namespace echelon
