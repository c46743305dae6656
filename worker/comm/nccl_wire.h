#pragma once
// NcclWire: a DeviceWire over NCCL. Ranks first tell each other over the host communicator what
// they have, so that what cannot work together is named before NCCL stumbles over it, and who has
// joined, so that a wait that ends without all says for whom. NCCL's own errors come up later, in
// the device's time: WireWatch asks for them while a host waits.
//
// The NCCL communicator is never destroyed: that waits for other ranks, which may be gone. It goes
// with the process. Thread: the rank's.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "kernels/device_link.h"
#include "worker/comm/communicator.h"
#include "worker/comm/device_wire.h"
#include "worker/comm/nccl_library.h"

namespace echelon {

struct NcclWireOptions {
  std::shared_ptr<NcclLibrary> library;
  std::shared_ptr<WireWatch> watch;
  DeviceCard card;
  std::string host;          // this rank's, for errors
  std::string host_id;       // NCCL_HOSTID, or empty
  std::string interface;     // NCCL_SOCKET_IFNAME, or empty: NCCL chooses
  int64_t join_ms = 60'000;  // until all ranks have joined
  int64_t wait_ms = 20'000;  // until an operation is enqueued
};

class NcclWire final : public DeviceWire {
 public:
  // What to call the ranks ("rank 1 on host n2, CUDA device 0 (NVIDIA H200)"), if their cards go
  // together; if not, all ranks get the same error. Collective.
  static Result<std::vector<std::string>> Compare(Communicator& host,
                                                  const NcclWireOptions& options);
  // Of ranks that were compared and are called so. Collective over `host`. A rank whose NCCL fails
  // gets an error of its own, and the others theirs when join_ms have passed. The host
  // communicator's SetArrived is used meanwhile.
  static Result<std::unique_ptr<DeviceWire>> Make(Communicator& host,
                                                  const NcclWireOptions& options,
                                                  const std::vector<std::string>& ranks);
  static Result<std::unique_ptr<DeviceWire>> Make(Communicator& host,  // after comparing them
                                                  const NcclWireOptions& options);
  ~NcclWire() override;

  Status AllGather(const void* send, void* recv, size_t bytes, void* stream) override;
  Status Pass(std::span<const OutgoingMessage> sends, std::span<const IncomingMessage> recvs,
              void* stream) override;
  Status Check() const override;

 private:
  NcclWire(int rank, const NcclWireOptions& options);
  Status Join(Communicator& host, const std::vector<std::string>& ranks);
  Error Failed(const char* what, const std::string& error) const;
  // Until what was begun is enqueued; `others` have a part in it (none named: all).
  Status Finish(const char* what, NcclOutcome outcome, std::vector<int> others = {});

  const int rank_;
  const NcclWireOptions options_;
  std::vector<std::string> ranks_;  // what to call them
  NcclComm comm_ = nullptr;
};

}  // namespace echelon
