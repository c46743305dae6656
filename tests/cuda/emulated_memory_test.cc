// What the emulation finds of memory: accesses beside allocations, reads of what nobody wrote, and
// launches whose shared memory a device would not give. And memory of another process.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/runtime.h"

namespace echelon::cuda {
namespace {

__global__ void SetKernel(char* to, int64_t at) {
  if (threadIdx.x == 0) to[at] = 1;
}
__global__ void ReadKernel(const char* from, int64_t at, char* to) {
  if (threadIdx.x == 0) *to = from[at];
}
// What a block finds in shared memory, before it writes there.
__global__ void SharedKernel(float* declared, float* launched) {
  __shared__ float own[32];
  auto* given = reinterpret_cast<float*>(DynamicShared());
  declared[blockIdx.x * 32 + threadIdx.x] = own[threadIdx.x];
  launched[blockIdx.x * 32 + threadIdx.x] = given[threadIdx.x];
  own[threadIdx.x] = given[threadIdx.x] = 1.0f;
}
__global__ void PastSharedKernel(int at) { DynamicShared()[at] = 1; }
__global__ void MuchSharedKernel() {
  __shared__ char own[32 << 10];
  own[threadIdx.x] = 1;
  __syncthreads();
  DynamicShared()[threadIdx.x] = own[31 - threadIdx.x];
}

class CudaMemory : public ::testing::Test {
 protected:
  CudaMemory() { EXPECT_TRUE(runtime_->NewStream(false, &stream_).ok()); }
  ~CudaMemory() override { runtime_->FreeStream(stream_); }
  char* Allocate(size_t bytes) {
    void* memory = nullptr;
    EXPECT_TRUE(runtime_->Allocate(bytes, &memory).ok());
    return static_cast<char*>(memory);
  }
  void Set(char* memory, int64_t at) {
    Launch(stream_, {}, 32, 0, SetKernel, memory, at);
    runtime_->Wait(stream_);
  }
  void Read(const char* memory, int64_t at, char* to) {
    Launch(stream_, {}, 32, 0, ReadKernel, memory, at, to);
    runtime_->Wait(stream_);
  }
  std::vector<float> Floats(const char* memory, size_t count) {
    std::vector<float> values(count);
    runtime_->CopyToHost(values.data(), memory, count * sizeof(float), stream_);
    runtime_->Wait(stream_);
    return values;
  }

  std::unique_ptr<Runtime> runtime_ = MakeRuntime();
  Stream stream_ = nullptr;
};
using CudaMemoryDeathTest = CudaMemory;

TEST_F(CudaMemoryDeathTest, AnAccessBehindAnAllocationEndsTheProgram) {
  char* const memory = Allocate(512);
  char* const to = Allocate(1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0u);
  EXPECT_DEATH(Read(memory, 512, to),
               "ReadKernel.*, block .0, 0, 0., thread 0 touches device memory 0 bytes behind the "
               "end of an allocation of 512 bytes");
  EXPECT_DEATH(Set(memory, -4096), "SetKernel.* touches device memory .* bytes before an allocati");
  runtime_->Free(to);
  runtime_->Free(memory);
  EXPECT_DEATH(Set(memory, 0), "device memory .*(behind|before|not allocated)");
}

TEST_F(CudaMemoryDeathTest, AWriteIntoWhatFillsAnAllocationUpIsFoundWhenItIsFreed) {
  const auto overwrite = [&](int64_t at) {
    char* const memory = Allocate(500);
    Set(memory, at);
    runtime_->Free(memory);
  };
  overwrite(499);
  EXPECT_DEATH(overwrite(500), "device memory behind an allocation was written");
  EXPECT_DEATH(overwrite(-1), "device memory before an allocation was written");
}

TEST_F(CudaMemoryDeathTest, TheHostCannotTouchIt) {
  char* const memory = Allocate(512);
  EXPECT_DEATH(*memory = 1, "the host, touches device memory .512 bytes. while no kernel");
  EXPECT_DEATH(runtime_->CopyToDevice(memory + 256, std::string(257, 'x').data(), 257, stream_);
               runtime_->Wait(stream_), "behind the end of an allocation of 512 bytes");
  runtime_->Free(memory);
}

TEST_F(CudaMemory, WhatNobodyWroteIsNoNumber) {
  char* const memory = Allocate(4000);
  for (const float value : Floats(memory, 1000)) EXPECT_TRUE(std::isnan(value));
  runtime_->Free(memory);
}

TEST_F(CudaMemory, AnotherProcessMapsWhatThisOneShares) {
  char* const memory = Allocate(1000);
  MemoryHandle handle;
  ASSERT_TRUE(runtime_->ShareMemory(memory, &handle).ok());
  void* mapped = nullptr;
  EXPECT_FALSE(runtime_->MapMemory(handle, &mapped).ok());  // as a device: its own
  const pid_t other = fork();
  if (other == 0) {
    const bool there = runtime_->MapMemory(handle, &mapped).ok() && mapped != memory;
    if (there) Set(static_cast<char*>(mapped), 999);
    runtime_->UnmapMemory(mapped);
    _exit(there ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0);
  char value = 0;
  runtime_->CopyToHost(&value, memory + 999, 1, stream_);
  runtime_->Wait(stream_);
  EXPECT_EQ(value, 1);
  runtime_->Free(memory);
}

TEST_F(CudaMemory, EachBlockFindsSharedMemoryUnwritten) {
  constexpr size_t kCount = 3 * 32;
  char* const declared = Allocate(kCount * sizeof(float));
  char* const launched = Allocate(kCount * sizeof(float));
  Launch(stream_, {3}, 32, 32 * sizeof(float), SharedKernel, reinterpret_cast<float*>(declared),
         reinterpret_cast<float*>(launched));
  for (const float value : Floats(declared, kCount)) EXPECT_TRUE(std::isnan(value));
  for (const float value : Floats(launched, kCount)) EXPECT_TRUE(std::isnan(value));
  runtime_->Free(declared);
  runtime_->Free(launched);
}

TEST_F(CudaMemoryDeathTest, SharedMemoryEndsWhereItsLaunchSays) {
  const auto touch = [&](int at) {
    Launch(stream_, {}, 32, 64, PastSharedKernel, at);
    runtime_->Wait(stream_);
  };
  touch(63);
  EXPECT_DEATH(touch(64), "PastSharedKernel.* touches no device memory");
}

TEST_F(CudaMemoryDeathTest, DeclaredAndLaunchedSharedMemoryShareOneLimit) {
  const auto launch = [&](size_t bytes) {
    Launch(stream_, {}, 32, bytes, MuchSharedKernel);
    runtime_->Wait(stream_);
  };
  launch(16 << 10);
  EXPECT_DEATH(launch(17 << 10),
               "declares 32768 bytes of shared memory, its launch asks for 17408");
  launch(67 << 10);  // asks for more by itself
  EXPECT_DEATH(launch(68 << 10), "a device gives 101376 together");
}

}  // namespace
}  // namespace echelon::cuda
