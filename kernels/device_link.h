#pragma once
// DeviceLink: a queue of a device beside its backend's stream, for what ranks pass to each other in
// device memory. What it is given runs behind all that the backend was given before, and behind all
// that this queue was given before; the backend goes on meanwhile, until Join. The host waits for
// nothing. Within Backend::Repeat it is recorded as ops are. Made by Backend::NewLink, driven by
// the backend's thread; the backend outlives it. An error is the device's: Backend::Health.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/result.h"

namespace echelon {

class DeviceBuffer;

// What ranks compare before they connect, and name in errors.
struct DeviceCard {
  std::string name;  // "CUDA device 0 (NVIDIA H200)"
  std::array<uint8_t, 16> uuid = {};
  int driver_version = 0, runtime_version = 0;  // 1000 * major + 10 * minor
  uint64_t memory_bytes = 0;
};

// How another rank of this host reaches device memory: by address in the same process, by the
// driver's handle in another.
struct PeerHandle {
  std::array<std::byte, 64> ipc = {};
  int64_t process = 0;
  int32_t device = 0;
  uint64_t address = 0, bytes = 0;
};

// Seconds of the device since the last call, where the backend is timed (BackendOptions::timed).
struct LinkTimes {
  double busy_seconds = 0.0;     // in this queue's operations, waits for other ranks among them
  double exposed_seconds = 0.0;  // the backend's stream stood still in Join
};

class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  virtual const DeviceCard& card() const = 0;

  // Places in the queue ascend from 1. `launch` enqueues on the device's own stream (a
  // cudaStream_t) and returns; it calls no op. `facts`: all it depends on but the contents of
  // memory (Backend::Repeat).
  virtual uint64_t Enqueue(std::span<const uint64_t> facts,
                           const std::function<Status(void* stream)>& launch) = 0;
  // out = terms[0] + terms[1] + ... in this order; `count` floats each. out may be a term.
  virtual uint64_t Sum(std::span<const float* const> terms, int64_t count, float* out) = 0;
  // What the backend is given from now on runs behind what this queue was given up to `place`.
  virtual void Join(uint64_t place) = 0;

  // Memory of this backend for other ranks of the host, and theirs for this one; an error where the
  // devices cannot reach each other. A mapped buffer is given back with its object, which the
  // owner's outlives.
  virtual Result<PeerHandle> Share(DeviceBuffer& memory) = 0;
  virtual Result<std::unique_ptr<DeviceBuffer>> Map(const PeerHandle& handle) = 0;

  virtual LinkTimes TakeTimes() = 0;
};

}  // namespace echelon
