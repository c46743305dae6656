#pragma once
// DeviceWire: what carries bytes between the devices of a group's ranks, on a device's stream. All
// ranks enqueue the same operations in the same order. Thread: the rank's.

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "common/result.h"
#include "worker/comm/communicator.h"

namespace echelon {

struct OutgoingMessage {
  const void* data = nullptr;
  size_t bytes = 0;
  int to = 0;
};
struct IncomingMessage {
  void* data = nullptr;
  size_t bytes = 0;
  int from = 0;
};

class DeviceWire {
 public:
  virtual ~DeviceWire() = default;
  // recv (size * bytes) in rank order; send may be this rank's part of it.
  virtual Status AllGather(const void* send, void* recv, size_t bytes, void* stream) = 0;
  // All of them together, in any order among pairs of ranks: none waits for another of the call.
  virtual Status Pass(std::span<const OutgoingMessage> sends,
                      std::span<const IncomingMessage> recvs, void* stream) = 0;
};

// A wire among the ranks of `host`; collective over it.
using WireFactory = std::function<Result<std::unique_ptr<DeviceWire>>(Communicator& host)>;

}  // namespace echelon
