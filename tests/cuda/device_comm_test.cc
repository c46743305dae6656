// DeviceCommunicator over the backend's own link: emulated streams that run at once, an NCCL played
// inside them. What no rank may read too early, and where the host must not touch, faults.

#include "worker/comm/device_comm.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/support/comm_contract.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/cuda_emulation/stream_queue.h"
#include "tests/support/worker/played_nccl.h"
#include "worker/comm/local_comm.h"
#include "worker/comm/nccl_wire.h"

namespace echelon {
namespace {

class CudaDeviceComm : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { emulation::SetEager(true); }
  void TearDown() override { emulation::SetEager(false); }
};

TEST_P(CudaDeviceComm, KeepsTheContract) {
  auto endpoints = MakeLocalCommunicators(GetParam());
  testing::PlayedFabric fabric;
  std::vector<std::vector<std::string>> broken(endpoints.size());
  std::vector<std::thread> threads;
  for (auto& endpoint : endpoints) {
    threads.emplace_back([&] {
      const auto device = *MakeBackend({.name = "cuda"});
      NcclWireOptions wire;
      wire.library = fabric.Library({emulation::EnqueueOn, emulation::CopyDevice});
      wire.watch = std::make_shared<WireWatch>();
      wire.host_id = StrCat(endpoint->rank());  // they share the emulated device
      DeviceCommOptions options;
      options.backend = device.get();
      options.connect = [&](Communicator& host) -> Result<DeviceLine> {
        ASSIGN_OR_RETURN(auto made, NcclWire::Make(host, wire));
        return DeviceLine{device->NewLink().value(), std::move(made)};
      };
      const auto comm = *DeviceCommunicator::Make(std::move(endpoint), options);
      broken[comm->rank()] = testing::CheckCommunicatorContract(*comm, device.get());
      device->Synchronize();
      EXPECT_TRUE(device->Health().ok());
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& lines : broken) {
    for (const auto& line : lines) ADD_FAILURE() << line;
  }
}

INSTANTIATE_TEST_SUITE_P(cuda_ranks, CudaDeviceComm, ::testing::Range(1, 4));

}  // namespace
}  // namespace echelon
