// Device over the emulation: memory that grows gives nothing back meanwhile, and a download waits
// where the watch looks.

#include "kernels/cuda/device.h"

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda/watched_runtime.h"

namespace echelon {
namespace {

struct Freed : cuda::WatchedRuntime {
  Freed(std::unique_ptr<cuda::Runtime> inner, int* count)
      : WatchedRuntime(std::move(inner)), count(count) {}
  void Free(void* memory) override {
    ++*count;
    WatchedRuntime::Free(memory);
  }
  int* const count;
};

TEST(CudaDevice, MemoryThatGrowsIsKeptToTheEnd) {
  int freed = 0;
  {
    const auto device =
        cuda::Device::Open(std::make_unique<Freed>(cuda::MakeRuntime(), &freed), 0).value();
    cuda::DeviceMemory memory;
    EXPECT_TRUE(device->Reserve(1000, "a test", memory));
    EXPECT_TRUE(device->Reserve(1000, "a test", memory));
    EXPECT_EQ(memory.bytes(), 1000u);
    EXPECT_TRUE(device->Reserve(1001, "a test", memory));
    EXPECT_EQ(memory.bytes(), 1500u);  // by half at least
    EXPECT_TRUE(device->Reserve(9000, "a test", memory));
    EXPECT_EQ(memory.bytes(), 9000u);
    EXPECT_EQ(freed, 0);
  }
  EXPECT_EQ(freed, 3);
}

TEST(CudaDevice, ADownloadWaitsWhereTheWatchLooks) {
  auto runtime = std::make_unique<cuda::WatchedRuntime>(cuda::MakeRuntime());
  auto* const watched = runtime.get();
  cuda::CudaBackend backend(cuda::Device::Open(std::move(runtime), 0).value(), 1);
  const auto memory = backend.Allocate(sizeof(int)).value();
  const int seven = 7;
  backend.Upload(&seven, memory->data(), sizeof(int));
  backend.Synchronize();
  backend.SetWatch([](bool) { return Unavailable("rank 1 is gone"); });
  watched->stuck = true;
  int got = 0;
  backend.Download(memory->data(), &got, sizeof(int));
  EXPECT_EQ(backend.Health().error().message, "rank 1 is gone");
  EXPECT_EQ(got, 0);
}

}  // namespace
}  // namespace echelon
