#pragma once
// Stamps: when a device came to places of its streams, by the host's clock. A stamp is an event;
// the last of a step is followed by an anchor, an event that the host awaits between two looks at
// its own clock, and the others are so much earlier as the device says. Driver and device answer in
// some 10 us: so far a step's stamps may be off together. One thread, the backend's.

#include <cstdint>
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
  // Settled ones, each once; 0 where the device has failed.
  int64_t Take(uint64_t stamp);

 private:
  Event TakeEvent();

  Device& device_;
  std::vector<Event> free_;
  std::vector<Event> put_;        // not settled
  std::vector<int64_t> settled_;  // not all of them taken
  size_t untaken_ = 0;            // of settled_
  uint64_t first_ = 0;            // of settled_
};

}  // namespace echelon::cuda
