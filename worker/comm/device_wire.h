#pragma once
// DeviceWire: what carries bytes between the devices of a group's ranks, on a device's stream. All
// ranks enqueue the same operations in the same order. Thread: the rank's.

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "common/result.h"
#include "kernels/device_link.h"
#include "worker/comm/long_wait.h"

namespace echelon {

class DeviceWire {
 public:
  virtual ~DeviceWire() = default;
  // recv (size * bytes) in rank order; send may be this rank's part of it.
  virtual Status AllGather(const void* send, void* recv, size_t bytes, void* stream) = 0;
  // All of them together, in any order among pairs of ranks: none waits for another of the call.
  virtual Status Pass(std::span<const OutgoingMessage> sends,
                      std::span<const IncomingMessage> recvs, void* stream) = 0;
  // The first error that operations have met on the device.
  virtual Status Check() const = 0;
};

// All wires of a worker, for Backend::SetWatch: their errors come up in the device's time, after
// the calls. Whom the device may wait for meanwhile only its wires know: for heartbeats. Thread:
// the rank's.
class WireWatch {
 public:
  void Add(const DeviceWire* wire) { wires_.push_back(wire); }
  void Remove(const DeviceWire* wire) { std::erase(wires_, wire); }
  // The ranks of the world at the wires' other ends.
  void Connects(std::vector<int> ranks) { ranks_ = std::move(ranks); }
  Status Check(bool over = true) {
    const bool waited = std::exchange(waits_, !over && !ranks_.empty());
    if (waits_ && !waited) long_wait_.Begin(ranks_);
    if (waited && !waits_) long_wait_.End();
    for (const DeviceWire* wire : wires_) RETURN_IF_ERROR(wire->Check());
    return {};
  }
  const LongWait& long_wait() const { return long_wait_; }  // for its device

 private:
  std::vector<const DeviceWire*> wires_;
  std::vector<int> ranks_;
  bool waits_ = false;  // told to long_wait_
  LongWait long_wait_;
};

}  // namespace echelon
