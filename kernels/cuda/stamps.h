#pragma once
// Stamps: when a device came to places of its streams, by the host's clock. A stamp is an event;
// the last of a step is followed by an anchor, an event that the host awaits between two looks at
// its own clock, and the others are so much earlier as the device says. Driver and device answer in
// some 10 us: so far a step's stamps may be off together. One thread, the backend's.

#include <cstdint>
#include <deque>
#include <vector>

#include "kernels/cuda/device.h"

namespace echelon::cuda {

class Stamps {
 public:
  explicit Stamps(Device& device) : device_(device) {}
  ~Stamps();
  Stamps(const Stamps&) = delete;
  Stamps& operator=(const Stamps&) = delete;

  uint64_t Put(Stream stream);
  // Everything that was enqueued is done. Takes the time of all stamps.
  void Settle();
  // Settled ones, each once, in their order; 0 where the device has failed.
  int64_t Take(uint64_t stamp);

 private:
  Event TakeEvent();

  Device& device_;
  std::vector<Event> free_;
  std::deque<Event> put_;        // not settled
  std::deque<int64_t> settled_;  // and not taken
  uint64_t taken_ = 0;
};

}  // namespace echelon::cuda
