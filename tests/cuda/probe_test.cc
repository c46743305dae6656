// Every way in which a host can fail to serve the CUDA backend, played through Runtime: one clear
// error each, with the device and what to do.

#include "kernels/cuda/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/make_backend.h"
#include "worker/agreement.h"
#include "worker/comm/local_comm.h"

namespace echelon::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A host with one H200, whose calls can be made to fail one by one.
class FakeRuntime : public Runtime {
 public:
  int driver = 13000, toolkit = 13000, devices = 1;
  Outcome counted, opened, allocated, waited, captured;
  DeviceInfo device = {"NVIDIA H200", 9, 0, 132, 151'000'000'000, 60'000'000};

  int DriverVersion() override { return driver; }
  int ToolkitVersion() override { return toolkit; }
  Outcome DeviceCount(int* count) override {
    *count = devices;
    return counted;
  }
  Outcome Describe(int, DeviceInfo* info) override {
    *info = device;
    return {};
  }
  Outcome Open(int) override { return opened; }
  Outcome FreeMemory(uint64_t* free_bytes, uint64_t* total_bytes) override {
    *free_bytes = 1'000'000;
    *total_bytes = device.memory_bytes;
    return {};
  }
  Outcome Allocate(size_t, void** memory) override {
    *memory = nullptr;
    return allocated;
  }
  void Free(void*) override {}
  Outcome AllocatePinned(size_t, void**) override { return {}; }
  void FreePinned(void*) override {}
  Outcome ShareMemory(void*, MemoryHandle*) override { return {}; }
  Outcome MapMemory(const MemoryHandle&, void**) override { return {}; }
  void UnmapMemory(void*) override {}
  Outcome EnablePeer(int) override { return {}; }
  Outcome NewStream(bool, Stream*) override { return {}; }
  void FreeStream(Stream) override {}
  Outcome CopyToDevice(void*, const void*, size_t, Stream) override { return {}; }
  Outcome CopyOnDevice(void*, const void*, size_t, Stream) override { return {}; }
  Outcome CopyToHost(void*, const void*, size_t, Stream) override { return {}; }
  Outcome Clear(void*, size_t, Stream) override { return {}; }
  Outcome Wait(Stream) override { return waited; }
  Outcome LastError() override { return {}; }
  Outcome BeginCapture(Stream) override { return captured; }
  Outcome EndCapture(Stream, Graph*) override { return captured; }
  Outcome LaunchGraph(Graph, Stream) override { return {}; }
  void FreeGraph(Graph) override {}
  Outcome NewEvent(bool, Event*) override { return {}; }
  void FreeEvent(Event) override {}
  Outcome Record(Event, Stream) override { return {}; }
  Outcome WaitFor(Stream, Event) override { return {}; }
  Outcome WaitEvent(Event) override { return waited; }
  Outcome Query(Event, bool*) override { return {}; }
  Outcome Milliseconds(Event, Event, float*) override { return {}; }
};

Error ErrorOf(FakeRuntime& runtime, int device = 0) {
  const auto opened = OpenDevice(runtime, device);
  return opened.ok() ? Error{ErrorCode::kCancelled, "opened"} : opened.error();
}

TEST(CudaProbe, OpensADevice) {
  FakeRuntime runtime;
  EXPECT_EQ(OpenDevice(runtime, 0).value().name, "NVIDIA H200");
}

TEST(CudaProbe, NoDriver) {
  FakeRuntime runtime;
  runtime.driver = 0;
  runtime.counted = {Failure::kNoDriver, 35, "cudaErrorInsufficientDriver"};
  const Error error = ErrorOf(runtime);
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_THAT(error.message, AllOf(HasSubstr("no NVIDIA driver"), HasSubstr("CUDA 13.0 or later"),
                                   HasSubstr("or use backend \"cpu\"")));
}

TEST(CudaProbe, DriverTooOld) {
  FakeRuntime runtime;
  runtime.driver = 12040;
  runtime.counted = {Failure::kDriverTooOld, 35, "cudaErrorInsufficientDriver"};
  const Error error = ErrorOf(runtime);
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_THAT(error.message, AllOf(HasSubstr("serves CUDA 12.4, this build needs 13.0"),
                                   HasSubstr("update the driver")));
}

TEST(CudaProbe, NoDevice) {
  FakeRuntime runtime;
  runtime.devices = 0;
  EXPECT_EQ(ErrorOf(runtime).code, ErrorCode::kUnsupported);
  EXPECT_THAT(ErrorOf(runtime).message, HasSubstr("shows no GPU"));
  runtime.counted = {Failure::kNoDevice, 100, "cudaErrorNoDevice"};
  EXPECT_THAT(ErrorOf(runtime).message, HasSubstr("CUDA_VISIBLE_DEVICES"));
}

TEST(CudaProbe, FewerDevicesThanRanks) {
  FakeRuntime runtime;
  EXPECT_THAT(ErrorOf(runtime, 1).message,
              HasSubstr("CUDA device 1 was asked for and the driver shows 1"));
}

TEST(CudaProbe, TooOldADevice) {
  FakeRuntime runtime;
  runtime.device = {"Tesla T4", 7, 5, 40, 16'000'000'000, 4'000'000};
  EXPECT_EQ(ErrorOf(runtime).code, ErrorCode::kUnsupported);
  EXPECT_THAT(ErrorOf(runtime).message,
              HasSubstr("CUDA device 0 (Tesla T4) has compute capability 7.5"));
}

TEST(CudaProbe, ABuildWithoutCodeForTheDevice) {
  FakeRuntime runtime;
  runtime.device = {"NVIDIA A100", 8, 0, 108, 80'000'000'000, 40'000'000};
  runtime.opened = {Failure::kNoKernelImage, 209, "cudaErrorNoKernelImageForDevice"};
  EXPECT_EQ(ErrorOf(runtime).code, ErrorCode::kUnsupported);
  EXPECT_EQ(ErrorOf(runtime).message,
            "CUDA device 0 (NVIDIA A100) has compute capability 8.0, and this build has no code "
            "for it (cudaErrorNoKernelImageForDevice): build with "
            "-DECHELON_CUDA_ARCHITECTURES=80, or use backend \"cpu\"");
}

TEST(CudaProbe, DeviceTaken) {
  FakeRuntime runtime;
  runtime.opened = {Failure::kDeviceBusy, 46, "cudaErrorDevicesUnavailable"};
  EXPECT_EQ(ErrorOf(runtime).code, ErrorCode::kUnavailable);
  EXPECT_THAT(ErrorOf(runtime).message,
              AllOf(HasSubstr("CUDA device 0 (NVIDIA H200) is taken"), HasSubstr("nvidia-smi")));
}

TEST(CudaProbe, NoMemoryToBegin) {
  FakeRuntime runtime;
  runtime.opened = {Failure::kOutOfMemory, 2, "cudaErrorMemoryAllocation"};
  EXPECT_EQ(ErrorOf(runtime).code, ErrorCode::kResourceExhausted);
}

TEST(CudaProbe, AnUnknownErrorIsQuoted) {
  FakeRuntime runtime;
  runtime.opened = {Failure::kOther, 999, "cudaErrorUnknown: unknown error"};
  EXPECT_EQ(ErrorOf(runtime).code, ErrorCode::kInternal);
  EXPECT_THAT(ErrorOf(runtime).message, HasSubstr("cudaErrorUnknown: unknown error"));
}

TEST(CudaProbe, MemoryTooSmallNamesBothFigures) {
  auto runtime = std::make_unique<FakeRuntime>();
  runtime->allocated = {Failure::kOutOfMemory, 2, "cudaErrorMemoryAllocation"};
  CudaBackend backend(Device::Open(std::move(runtime), 0).value(), 1);
  const auto refused = backend.AllocateKv(
      {.layers = 1, .pages = 1000, .page_tokens = 16, .kv_heads = 1, .head_dim = 64});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("CUDA device 0 (NVIDIA H200): the key-value cache needs 4.1 MB, "
                              "1.0 MB of 151.0 GB are free"),
                    HasSubstr("worker.kv_memory_bytes")));
}

TEST(CudaProbe, AnErrorInAStepIsKeptAndEndsTheOps) {
  auto runtime = std::make_unique<FakeRuntime>();
  FakeRuntime& fake = *runtime;
  CudaBackend backend(Device::Open(std::move(runtime), 0).value(), 1);
  backend.Synchronize();
  EXPECT_TRUE(backend.Health().ok());
  fake.waited = {Failure::kOther, 700, "cudaErrorIllegalAddress: an illegal memory access"};
  backend.Synchronize();
  fake.waited = {};
  // Would fault under the emulation if it ran.
  backend.RmsNorm(Tensor(nullptr, 1, 8), nullptr, 1e-5f, Tensor(nullptr, 1, 8));
  backend.Synchronize();
  ASSERT_FALSE(backend.Health().ok());
  EXPECT_EQ(backend.Health().error().code, ErrorCode::kInternal);
  EXPECT_THAT(backend.Health().error().message,
              AllOf(HasSubstr("CUDA device 0 (NVIDIA H200) failed during a step (error 700, "
                              "cudaErrorIllegalAddress"),
                    HasSubstr("the worker group starts again")));
}

TEST(CudaProbe, HeadsTooWideAreRefused) {
  CudaBackend backend(Device::Open(std::make_unique<FakeRuntime>(), 0).value(), 1);
  const auto refused =
      backend.AllocateKv({.layers = 1, .pages = 1, .kv_heads = 1, .head_dim = 512});
  EXPECT_THAT(refused.error().message, HasSubstr("up to 256 dimensions, the model's have 512"));
}

TEST(CudaProbe, AMissingDeviceIsRefusedAndAutoTakesTheNextBest) {
  const auto refused = MakeBackend({.name = "cuda", .device = 99});
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("device 99 was asked for and the driver shows 8"));
  std::string passed_over;
  const auto chosen = MakeBackend({.name = "auto", .device = 99}, &passed_over);
  EXPECT_NE(chosen.value()->name(), "cuda");
  EXPECT_EQ(passed_over, refused.error().message);
}

TEST(CudaProbe, RanksOfAHostTakeItsDevicesInTurn) {
  const auto tenth = MakeBackend({.name = "cuda", .rank_on_host = 9}).value();
  EXPECT_THAT(tenth->NewLink().value()->card().name, HasSubstr("device 1 "));
  EXPECT_EQ(tenth->MemoryId(),
            MakeBackend({.name = "cuda", .rank_on_host = 1}).value()->MemoryId());
  EXPECT_EQ(MakeBackend({.name = "reference"}).value()->MemoryId(), "");
}

TEST(CudaProbe, RanksThatShareADevicesMemoryGetEqualPartsOfWhatWasFree) {
  // Devices 0, 1, 0 again, and the host's memory, which two ranks of this host have.
  const int on_host[] = {0, 1, 8, -1};
  auto ranks = MakeLocalCommunicators(4);
  std::vector<MemoryShare> shares(4);
  std::vector<std::unique_ptr<Backend>> backends;
  for (const int number : on_host) {
    backends.push_back(number < 0 ? MakeBackend({.name = "reference"}).value()
                                  : MakeBackend({.name = "cuda", .rank_on_host = number}).value());
  }
  std::vector<std::unique_ptr<DeviceBuffer>> taken(4);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 4; ++rank) {
    threads.emplace_back([&, rank] {
      if (rank == 2) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      shares[rank] = ShareMemory(*ranks[rank], *backends[rank], 2);
      // Who knows its part may take some at once: the late one's is no less for it.
      if (on_host[rank] >= 0) taken[rank] = backends[rank]->Allocate(size_t{1} << 20).value();
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<int> counts;
  for (const MemoryShare& share : shares) counts.push_back(share.ranks);
  EXPECT_THAT(counts, ::testing::ElementsAre(2, 1, 2, 2));
  EXPECT_GT(shares[0].free_bytes, 0u);
  EXPECT_EQ(shares[0].free_bytes, shares[2].free_bytes);
}

TEST(CudaProbe, AutoTakesCudaWhereItWorks) {
  std::string passed_over;
  EXPECT_EQ(MakeBackend({.name = "auto"}, &passed_over).value()->name(), "cuda");
  EXPECT_EQ(passed_over, "");
}

}  // namespace
}  // namespace echelon::cuda
