#include "worker/comm/step_comm.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "common/strings.h"
#include "worker/comm/device_comm.h"
#include "worker/comm/first_problem.h"
#include "worker/comm/packed_text.h"
#include "worker/comm/peer_wire.h"
#include "worker/comm/staged_comm.h"

namespace echelon {

namespace {

Result<NcclWireOptions> PrepareNccl(const DeviceCard& card, const StepCommOptions& options) {
  NcclWireOptions wire;
  ASSIGN_OR_RETURN(wire.library, options.load_nccl());
  wire.watch = options.watch ? options.watch : std::make_shared<WireWatch>();
  wire.card = card;
  wire.host = options.host;
  wire.host_id = options.nccl_host_id;
  wire.interface = options.nccl_interface;
  wire.join_ms = options.join_ms;
  wire.wait_ms = options.wait_ms;
  return wire;
}

// A group's line as it is made, and how those of its parts are.
struct Connected {
  std::string how;
  std::unique_ptr<DeviceWire> wire;
  WireFactory again;
};

// How a rank runs kernels on its device.
struct PackedTurn {
  std::array<uint8_t, 16> uuid = {};
  int64_t process = 0;
  bool mps = false;
  char device[64] = {};
};

// Processes that share a device take turns of milliseconds there, and a kernel that waits for
// another process's uses its turn up; a host that waits leaves the device to the other. The same
// on all ranks.
Status RunAtOnce(Communicator& host, const DeviceCard& card) {
  PackedTurn mine = {card.uuid, card.process, card.mps, {}};
  PutText(mine.device, card.name);
  std::vector<PackedTurn> all(static_cast<size_t>(host.size()));
  host.Wait(host.AllGather(&mine, all.data(), sizeof(mine)));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    for (size_t other = 0; other < rank; ++other) {
      const PackedTurn &a = all[other], &b = all[rank];
      if (a.uuid != b.uuid || a.process == b.process || a.mps) continue;
      return Unsupported(StrCat("ranks ", other, " and ", rank, " of the group share ", a.device,
                                ", where processes take turns: one whose kernel waits for the "
                                "other's would use up its own; MPS lets both run at once"));
    }
  }
  return {};
}

// An error is the same on all ranks.
Result<Connected> ConnectPeers(Communicator& host, DeviceLink& link,
                               const StepCommOptions& options) {
  PeerWireOptions wire;
  wire.watch = options.watch ? options.watch : std::make_shared<WireWatch>();
  wire.host = options.host;
  wire.wait_ms = options.wait_ms;
  Connected made;
  made.how = "through peer memory";
  made.again = [wire](Communicator& over, DeviceLink& its) {
    return PeerWire::Make(over, its, wire);
  };
  ASSIGN_OR_RETURN(made.wire, made.again(host, link));
  return made;
}

// `can` is an error, the same on all ranks, where NCCL cannot join them.
Result<Connected> ConnectNccl(Communicator& host, DeviceLink& link, const StepCommOptions& options,
                              Status& can) {
  const Result<NcclWireOptions> wire = PrepareNccl(link.card(), options);
  can = FirstProblem(host, options.host, wire);
  RETURN_IF_ERROR(can);
  const Result<std::vector<std::string>> ranks = NcclWire::Compare(host, *wire);
  if (!ranks.ok()) can = ranks.error();
  RETURN_IF_ERROR(can);
  Connected made;
  made.how = "over NCCL";
  if (!wire->interface.empty()) made.how += ", interface " + wire->interface;
  ASSIGN_OR_RETURN(made.wire, NcclWire::Make(host, *wire, *ranks));
  made.again = [wire = *wire](Communicator& over, DeviceLink&) {
    return NcclWire::Make(over, wire);
  };
  return made;
}

// The first way of `options.kind` that all ranks can go; none: why is in `problems`.
Result<std::optional<Connected>> Connect(Communicator& host, DeviceLink& link,
                                         const StepCommOptions& options,
                                         std::vector<std::string>& problems) {
  if (options.new_wire) {
    Connected made;
    made.how = "over a wire of their own";
    made.again = options.new_wire;
    ASSIGN_OR_RETURN(made.wire, made.again(host, link));
    return std::optional<Connected>(std::move(made));
  }
  if (options.kind != "nccl") {
    const Status quick = options.kind == "auto" ? RunAtOnce(host, link.card()) : Status();
    Result<Connected> made =
        quick.ok() ? ConnectPeers(host, link, options) : Result<Connected>(quick.error());
    if (made.ok()) return std::optional<Connected>(*std::move(made));
    problems.push_back(made.error().message);
  }
  if (options.kind != "peer") {
    Status can;
    Result<Connected> made = ConnectNccl(host, link, options, can);
    if (made.ok()) return std::optional<Connected>(*std::move(made));
    if (can.ok()) return made.error();
    problems.push_back(made.error().message);
  }
  return std::optional<Connected>();
}

std::unique_ptr<Communicator> Staged(std::unique_ptr<Communicator> host, Backend& backend) {
  return std::make_unique<StagedCommunicator>(std::move(host), backend);
}

}  // namespace

Result<std::unique_ptr<Communicator>> MakeStepCommunicator(std::unique_ptr<Communicator> host,
                                                           Backend& backend,
                                                           const StepCommOptions& options) {
  if (host->size() == 1) return host;
  const char on_device = backend.host_memory() ? 0 : 1;
  std::vector<char> all(static_cast<size_t>(host->size()));
  host->Wait(host->AllGather(&on_device, all.data(), sizeof(on_device)));
  if (on_device == 0) return host;
  const bool all_on_devices = std::count(all.begin(), all.end(), 1) == host->size();
  if (!all_on_devices || options.kind == "staged") return Staged(std::move(host), backend);

  DeviceLine line;
  std::optional<Connected> made;
  std::vector<std::string> problems;
  Result<std::unique_ptr<DeviceLink>> link = backend.NewLink();
  if (const Status can = FirstProblem(*host, options.host, link); can.ok()) {
    line.link = *std::move(link);
    ASSIGN_OR_RETURN(made, Connect(*host, *line.link, options, problems));
  } else {
    problems.push_back(can.error().message);
  }
  const std::string why = Join(problems, "; ");
  if (!made && options.kind != "auto") {
    return InvalidArgument(
        StrCat("worker.device_exchange is ", options.kind, ", but ", why, "; or set it to auto"));
  }
  if (options.note) {
    options.note(StrCat("devices exchange ", made ? made->how : std::string("through host memory"),
                        why.empty() ? "" : StrCat(" (", why, ")")));
  }
  if (!made) return Staged(std::move(host), backend);
  line.wire = std::move(made->wire);
  DeviceCommOptions device;
  device.backend = &backend;
  device.connect = [&backend, again = made->again](Communicator& over) -> Result<DeviceLine> {
    DeviceLine its;
    ASSIGN_OR_RETURN(its.link, backend.NewLink());
    ASSIGN_OR_RETURN(its.wire, again(over, *its.link));
    return its;
  };
  return DeviceCommunicator::Make(std::move(host), device, std::move(line));
}

void FinishFor(Backend& backend, const Communicator& comm) {
  if (comm.size() > 1 && !comm.waits_for_ops()) backend.Synchronize();
}

}  // namespace echelon
