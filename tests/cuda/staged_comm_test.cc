// StagedCommunicator over a backend whose memory is not the host's: the emulated device faults
// where the host touches its memory, and copies late.

#include "worker/comm/staged_comm.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda/watched_runtime.h"
#include "tests/support/comm_contract.h"
#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

std::unique_ptr<Backend> NewDevice() { return *MakeBackend({.name = "cuda"}); }

class CudaStagedComm : public ::testing::TestWithParam<int> {};

TEST_P(CudaStagedComm, KeepsTheContract) {
  auto endpoints = MakeLocalCommunicators(GetParam());
  std::vector<std::vector<std::string>> broken(endpoints.size());
  std::vector<std::thread> threads;
  for (auto& endpoint : endpoints) {
    threads.emplace_back([&] {
      const auto device = NewDevice();
      StagedCommunicator comm(std::move(endpoint), *device);
      EXPECT_FALSE(comm.on_stream());
      broken[comm.rank()] = testing::CheckCommunicatorContract(comm, device.get());
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& lines : broken) {
    for (const auto& line : lines) ADD_FAILURE() << line;
  }
}

INSTANTIATE_TEST_SUITE_P(cuda_ranks, CudaStagedComm, ::testing::Range(1, 5));

// A stage on the host and one on a device: the messages are the same.
TEST(CudaStagedComm, TalksToARankWhoseTensorsAreInHostMemory) {
  auto endpoints = MakeLocalCommunicators(2);
  const std::vector<float> asked = {1.0f, 2.0f, 3.0f};
  std::thread on_device([&] {
    const auto device = NewDevice();
    StagedCommunicator comm(std::move(endpoints[1]), *device);
    testing::Held<float> data(device.get(), std::vector<float>(3));
    comm.Wait(comm.Recv(data.data(), data.bytes(), 0));
    EXPECT_EQ(data.Read(), asked);
    comm.Wait(comm.AllReduceRows(data.data(), 1, 3));
    comm.Wait(comm.Send(data.data(), data.bytes(), 0));
  });
  Communicator& host = *endpoints[0];
  std::vector<float> answered(3), sum = {1.0f, 1.0f, 1.0f};
  host.Wait(host.Send(asked.data(), 12, 1));
  host.Wait(host.AllReduceRows(sum.data(), 1, 3));
  host.Wait(host.Recv(answered.data(), 12, 1));
  on_device.join();
  EXPECT_EQ(sum, (std::vector<float>{2.0f, 3.0f, 4.0f}));
  EXPECT_EQ(answered, sum);
}

// What a device's memory holds after an error must not become another rank's token. Nor does the
// rank wait for the others: it has an error to tell.
TEST(CudaStagedComm, IsSilentWhenItsDeviceHasFailed) {
  auto endpoints = MakeLocalCommunicators(2);
  auto watched = std::make_unique<cuda::WatchedRuntime>(cuda::MakeRuntime());
  cuda::WatchedRuntime* const runtime = watched.get();
  cuda::CudaBackend device(cuda::Device::Open(std::move(watched), 0).value(), 1);
  StagedCommunicator comm(std::move(endpoints[1]), device);
  testing::Held<float> data(&device, std::vector<float>{1.0f, 2.0f});
  runtime->last_error = {cuda::Failure::kOther, 700, "cudaErrorIllegalAddress"};
  device.Synchronize();
  ASSERT_FALSE(device.Health().ok());
  comm.Wait(comm.Send(data.data(), data.bytes(), 0));
  EXPECT_TRUE(comm.NextRows(comm.AllReduceRows(data.data(), 1, 2)).empty());
  comm.Wait(comm.Recv(data.data(), data.bytes(), 0));

  Communicator& host = *endpoints[0];
  std::vector<float> got(2);
  host.Recv(got.data(), 8, 1);
  EXPECT_TRUE(host.MoveOn()) << "a message came";  // it is under way for ever
  EXPECT_EQ(got, std::vector<float>(2));
}

}  // namespace
}  // namespace echelon
