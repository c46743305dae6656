#include "worker/comm/step_comm.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/strings.h"
#include "worker/comm/device_comm.h"
#include "worker/comm/packed_text.h"
#include "worker/comm/staged_comm.h"

namespace echelon {

namespace {

// What ranks tell each other; longer texts are cut off.
struct PackedChoice {
  bool on_device = false;
  char host[64] = {};
  char problem[384] = {};  // why this rank cannot take part in NCCL, or empty
};

// This rank's part in a wire.
Result<NcclWireOptions> PrepareNccl(Backend& backend, const StepCommOptions& options) {
  NcclWireOptions wire;
  ASSIGN_OR_RETURN(wire.library, options.load_nccl());
  ASSIGN_OR_RETURN(const auto link, backend.NewLink());
  wire.watch = options.watch ? options.watch : std::make_shared<WireWatch>();
  wire.card = link->card();
  wire.host = options.host;
  wire.host_id = options.nccl_host_id;
  wire.interface = options.nccl_interface;
  wire.join_ms = options.join_ms;
  return wire;
}

// Whether all ranks, which are on devices, can be joined; the same on all of them.
Status CanJoin(Communicator& host, const std::vector<PackedChoice>& choices,
               const Result<NcclWireOptions>& wire) {
  for (size_t rank = 0; rank < choices.size(); ++rank) {
    if (choices[rank].problem[0] == '\0') continue;
    return Unsupported(StrCat("rank ", rank, " of the group on host ", choices[rank].host, ": ",
                              choices[rank].problem));
  }
  return NcclWire::Compare(host, *wire);
}

Result<std::unique_ptr<Communicator>> OnDevice(std::unique_ptr<Communicator> host, Backend& backend,
                                               WireFactory new_wire) {
  DeviceCommOptions device;
  device.backend = &backend;
  device.new_link = [&backend] { return backend.NewLink(); };
  device.new_wire = std::move(new_wire);
  return DeviceCommunicator::Make(std::move(host), device);
}

std::unique_ptr<Communicator> Staged(std::unique_ptr<Communicator> host, Backend& backend) {
  return std::make_unique<StagedCommunicator>(std::move(host), backend);
}

}  // namespace

Result<std::unique_ptr<Communicator>> MakeStepCommunicator(std::unique_ptr<Communicator> host,
                                                           Backend& backend,
                                                           const StepCommOptions& options) {
  if (host->size() == 1) return host;
  Result<NcclWireOptions> wire = Unsupported("not asked for");
  PackedChoice mine;
  mine.on_device = !backend.host_memory();
  PutText(mine.host, options.host);
  if (mine.on_device && options.kind != "staged" && !options.new_wire) {
    wire = PrepareNccl(backend, options);
    if (!wire.ok()) PutText(mine.problem, wire.error().message);
  }
  std::vector<PackedChoice> choices(static_cast<size_t>(host->size()));
  host->Wait(host->AllGather(&mine, choices.data(), sizeof(mine)));
  if (!mine.on_device) return host;
  const bool all_on_devices = std::all_of(choices.begin(), choices.end(),
                                          [](const PackedChoice& rank) { return rank.on_device; });
  if (!all_on_devices || options.kind == "staged") return Staged(std::move(host), backend);

  if (options.new_wire) return OnDevice(std::move(host), backend, options.new_wire);
  const Status can = CanJoin(*host, choices, wire);
  if (!can.ok() && options.kind == "nccl") {
    return InvalidArgument(
        StrCat("worker.device_exchange is nccl, but ", can.error().message, "; or set it to auto"));
  }
  if (!can.ok()) {
    if (options.note) options.note(can.error().message);
    return Staged(std::move(host), backend);
  }
  return OnDevice(std::move(host), backend,
                  [wire = *wire](Communicator& over) { return NcclWire::Make(over, wire); });
}

void FinishFor(Backend& backend, const Communicator& comm) {
  if (comm.size() > 1 && !comm.on_stream()) backend.Synchronize();
}

}  // namespace echelon
