#pragma once
// Ranks as threads, each with an emulated device whose streams run by themselves, and an NCCL
// played among them.

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/strings.h"
#include "kernels/backend.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/worker/played_nccl.h"
#include "worker/comm/device_comm.h"
#include "worker/comm/local_comm.h"
#include "worker/comm/nccl_wire.h"
#include "worker/comm/step_comm.h"

namespace echelon::testing {

// Streams that are made while it lives run by themselves, as a device's: one that waits for another
// rank's must not need that rank's host.
struct EagerStreams {
  EagerStreams() { emulation::SetEager(true); }
  ~EagerStreams() { emulation::SetEager(false); }
};

inline std::unique_ptr<NcclLibrary> PlayedLibrary(PlayedFabric& fabric) {
  return fabric.Library({emulation::EnqueueOn, emulation::CopyDevice});
}

// Tensors between ranks go by way of the fabric.
inline StepCommOptions OverNccl(PlayedFabric& fabric) {
  StepCommOptions comm;
  comm.kind = "nccl";
  comm.load_nccl = [&]() -> Result<std::unique_ptr<NcclLibrary>> { return PlayedLibrary(fabric); };
  return comm;
}

// body(the rank's backend, a communicator in its stream) on each of `ranks`.
inline void OnStreamRanks(int ranks, const std::function<void(Backend&, Communicator&)>& body) {
  const EagerStreams eager;
  PlayedFabric fabric;
  auto endpoints = MakeLocalCommunicators(ranks);
  std::vector<std::thread> threads;
  for (auto& endpoint : endpoints) {
    threads.emplace_back([&] {
      const auto backend = *MakeBackend({.name = "cuda"});
      NcclWireOptions wire;
      wire.library = PlayedLibrary(fabric);
      wire.watch = std::make_shared<WireWatch>();
      wire.host_id = StrCat(endpoint->rank());  // they share the emulated device
      DeviceCommOptions options;
      options.backend = backend.get();
      options.connect = [&](Communicator& host) -> Result<DeviceLine> {
        ASSIGN_OR_RETURN(auto made, NcclWire::Make(host, wire));
        return DeviceLine{backend->NewLink().value(), std::move(made)};
      };
      const auto comm = *DeviceCommunicator::Make(std::move(endpoint), options);
      body(*backend, *comm);
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace echelon::testing
