#pragma once
// TimedBackend: a backend that tells an observer when each op of another one began and ended. Used
// by traces only; a backend that is not wrapped pays nothing. The same thread and the same lifetime
// rules as the backend inside, whose bits it leaves alone.
//
// On the host each op is waited for, and told as it returns. On a device, which is to be timed
// (BackendOptions), nothing is waited for: ops and what links carry have the device's own times
// (Backend::Stamp), told in the order of their calls when Synchronize() has returned. Nothing is
// repeated: a graph, launched as one, would have to hold the stamps as nodes of its own, which then
// belong to one launch alone.

#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace echelon {

// Where the time went by. The others are of devices alone.
enum class OpPlace : uint8_t {
  kHost,
  kDevice,      // in the backend's stream
  kDeviceWait,  // there, for a link
  kDeviceLink,  // in a link's queue, waits for other ranks among it
};

struct OpTime {
  const char* op = "";               // the method in snake case, of static storage
  const void* subject = nullptr;     // the Weight or the vector of a norm that it reads, or null
  int layer = -1;                    // of this rank, where the op knows it
  int64_t rows = 0;                  // of the activations
  int64_t begin_ns = 0, end_ns = 0;  // std::chrono::steady_clock
  OpPlace place = OpPlace::kHost;
  int link = 0;  // of this backend, where it is one's: what different ones carry may overlap
};

class OpObserver {
 public:
  virtual ~OpObserver() = default;
  virtual void OnOp(const OpTime& time) = 0;  // on the thread that drives the backend
};

// `observer` outlives the backend.
std::unique_ptr<Backend> MakeTimedBackend(std::unique_ptr<Backend> inner, OpObserver& observer);

}  // namespace echelon
