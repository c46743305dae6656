#pragma once
// Which communicator carries a step's tensors between ranks: what its buffers are, and on which
// wire they travel, decided by all ranks of a group together. All backends' memory is the host's:
// the host communicator. All ranks on devices of one host that reach each other's memory, or else
// on devices that NCCL joins: DeviceCommunicator, in the stream. Else ranks on devices stage
// through the host, also where only some are: the messages are those of a host communicator.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/result.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/comm/nccl_library.h"
#include "worker/comm/nccl_wire.h"

namespace echelon {

// A wire among the ranks of `host` on `link`; collective over it.
using WireFactory =
    std::function<Result<std::unique_ptr<DeviceWire>>(Communicator& host, DeviceLink& link)>;

struct StepCommOptions {
  std::string kind = "auto";   // worker.device_exchange: auto | peer | nccl | staged, one of all
  std::string host;            // this rank's, for errors
  std::string nccl_host_id;    // NCCL_HOSTID, or empty
  std::string nccl_interface;  // NCCL_SOCKET_IFNAME, or empty
  int64_t join_ms = 60'000;    // until all ranks have joined on the device
  // For a message in peer memory, or NCCL to enqueue one, until the other rank is given up.
  int64_t wait_ms = 20'000;
  std::function<Result<std::unique_ptr<NcclLibrary>>()> load_nccl = MakeNcclLibrary;
  // What carries between devices in place of what `kind` names: for benchmarks; else empty.
  WireFactory new_wire;
  // Of this rank, for its backend's SetWatch; null: one of its own (RankGroups), or errors that
  // come up later are not looked for.
  std::shared_ptr<WireWatch> watch;
  // Told what carries the tensors of ranks on devices, and why not what would be better.
  std::function<void(const std::string& how)> note;
};

// For the backend's memory, over the ranks of `host`, whose backends may differ. Collective. The
// communicator of a rank alone is `host`, and is given no tensors. Errors: what was asked for
// cannot be had, on all ranks; or, of this rank, that NCCL did not join, or memory.
Result<std::unique_ptr<Communicator>> MakeStepCommunicator(std::unique_ptr<Communicator> host,
                                                           Backend& backend,
                                                           const StepCommOptions& options);

// Before other ranks read what the backend's ops wrote, or write what these read. A rank alone lets
// its device run on to the end of the step, as one does whose messages take their places in its
// stream.
void FinishFor(Backend& backend, const Communicator& comm);

}  // namespace echelon
