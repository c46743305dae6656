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
#include <optional>
#include <span>
#include <string>

#include "common/result.h"

namespace echelon {

class DeviceBuffer;

// What ranks compare before they connect, and name in errors.
struct DeviceCard {
  std::string name;  // "CUDA device 0 (NVIDIA H200)"
  std::array<uint8_t, 16> uuid = {};
  int64_t process = 0;  // kernels of one run on a device at once; of several, where `mps`, else in
  bool mps = false;     // turns
  int driver_version = 0, runtime_version = 0;  // 1000 * major + 10 * minor
  uint64_t memory_bytes = 0;
};

// How another rank of this host reaches device memory: by address in the same process, by the
// driver's handle in another.
struct PeerHandle {
  bool for_processes = false;  // the driver has given a handle
  std::array<std::byte, 64> ipc = {};
  int64_t process = 0;
  int32_t device = 0;
  uint64_t address = 0, bytes = 0;
};

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

// Memory in which the ranks of a host leave each other messages, by kernels that wait for each
// other on their devices (kernels/cuda/mail.h). Messages between two ranks arrive in their order;
// their sizes must agree. Made by DeviceLink::NewMailboxes; the link and the thread are that one's.
// Going, it waits a second at most for the others to take what they were sent; these outlive their
// own last message alone.
class Mailboxes {
 public:
  struct Unanswered {
    int rank = 0;
    bool sent = false;  // it has not taken what it was sent, else not sent what is due
  };
  virtual ~Mailboxes() = default;
  // For the other ranks, once they all know each other's: connects to theirs.
  virtual const PeerHandle& handle() const = 0;
  virtual Status Connect(std::span<const PeerHandle> of_ranks) = 0;
  // When all ranks have connected: a first message from each to each, compared. A driver may say
  // that devices reach each other where an IOMMU between them takes their writes elsewhere.
  virtual Status Try() = 0;
  // Gives back the others' memory, before these give back theirs; nothing is sent any more.
  virtual void Disconnect() = 0;
  // For DeviceLink::Enqueue, with its stream. Sent and received together, in any order among pairs
  // of ranks. Send may be this rank's part of recv (ranks * bytes).
  virtual Status Pass(std::span<const OutgoingMessage> sends,
                      std::span<const IncomingMessage> recvs, void* stream) = 0;
  virtual Status AllGather(const void* send, void* recv, size_t bytes, void* stream) = 0;
  // Whom a message was waited for in vain; what came of it and of all later ones is undefined.
  // Current when the device has done what it was given.
  virtual std::optional<Unanswered> unanswered() const = 0;
};
struct MailboxOptions {
  int rank = 0, ranks = 0;
  int64_t wait_ms = 0;  // without anything coming or going, until a message is given up
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
  // out = terms[0] + terms[1] + ... in this order, kTermsMax at most; `count` floats each. out may
  // be a term.
  static constexpr int kTermsMax = 16;
  virtual uint64_t Sum(std::span<const float* const> terms, int64_t count, float* out) = 0;
  // What the backend is given from now on runs behind what this queue was given up to `place`.
  virtual void Join(uint64_t place) = 0;

  // Memory of this backend for other ranks of the host, and theirs for this one; an error where the
  // devices cannot reach each other. A mapped buffer is given back with its object, which the
  // owner's outlives.
  virtual PeerHandle Share(DeviceBuffer& memory) = 0;
  virtual Result<std::unique_ptr<DeviceBuffer>> Map(const PeerHandle& handle) = 0;

  // At most kMailRanksMax ranks of a host.
  static constexpr int kMailRanksMax = 16;
  virtual Result<std::unique_ptr<Mailboxes>> NewMailboxes(const MailboxOptions& options) = 0;

  virtual LinkTimes TakeTimes() = 0;
};

}  // namespace echelon
