#pragma once
// Stands in for kernels/cuda/device.cuh where the kernels are compiled by the host's compiler: the
// words of CUDA that they use, over emulation.h. Tests only.

#include <math.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

#include "common/half.h"
#include "kernels/cuda/runtime.h"
#include "tests/support/cuda_emulation/async_copies.h"
#include "tests/support/cuda_emulation/block_shared.h"
#include "tests/support/cuda_emulation/emulation.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
// Blocks of a host's thread run one after the other, so one copy serves each in turn
// (block_shared.h finds it).
#define __shared__ static thread_local
#define threadIdx (::echelon::emulation::Current().thread)
#define blockIdx (::echelon::emulation::Current().block)
#define gridDim (::echelon::emulation::Current().grid)

namespace echelon::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr size_t kSharedBytesMax = emulation::kSharedBytesAtMost;
inline constexpr size_t kSharedBytesStaticMax = emulation::kSharedBytesDeclared;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

inline void __syncthreads() { emulation::WaitForBlock(); }
inline void __syncwarp() { emulation::WaitForWarp(); }
inline float __shfl_xor_sync(unsigned, float value, int distance) {
  return emulation::ExchangeWithLane(value, distance);
}

template <typename... Parameters, typename... Arguments>
void Launch(Stream stream, Grid grid, unsigned threads, size_t shared_bytes,
            void (*kernel)(Parameters...), const Arguments&... args) {
  const emulation::LaunchShape shape = {
      reinterpret_cast<const void*>(kernel), {grid.x, grid.y, grid.z}, threads, shared_bytes};
  static_cast<emulation::StreamQueue*>(stream)->EnqueueKernel(
      [=] { emulation::RunGrid(shape, [&] { kernel(args...); }); });
}

template <typename... Parameters, typename... Arguments>
void LaunchTogether(Stream stream, unsigned blocks, unsigned threads, void (*kernel)(Parameters...),
                    const Arguments&... args) {
  const emulation::LaunchShape shape = {
      reinterpret_cast<const void*>(kernel), {blocks, 1, 1}, threads, 0};
  static_cast<emulation::StreamQueue*>(stream)->EnqueueKernel(
      [=] { emulation::RunTogether(shape, [&] { kernel(args...); }); });
}

inline char* DynamicShared() { return emulation::DynamicShared(); }

struct alignas(16) Bytes16 {
  uint32_t word[4];
};
struct Bytes8 {
  uint32_t word[2];
};
// The device faults where an address is not a multiple of the access; so does this.
template <typename Value>
Value LoadAligned(const void* p) {
  emulation::CheckAligned(p, sizeof(Value));
  Value value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
inline Bytes16 Load16(const void* p) { return LoadAligned<Bytes16>(p); }
inline Bytes8 Load8(const void* p) { return LoadAligned<Bytes8>(p); }
inline uint32_t Load4(const void* p) { return LoadAligned<uint32_t>(p); }
inline Bytes16 Read16(const void* p) { return LoadAligned<Bytes16>(p); }
inline void Write16(void* p, const Bytes16& value) {
  emulation::CheckAligned(p, sizeof(value));
  std::memcpy(p, &value, sizeof(value));
}
inline uint64_t ReadAcquire(const uint64_t* p) {
  return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(p)).load(std::memory_order_acquire);
}
inline void WriteRelease(uint64_t* p, uint64_t value) {
  std::atomic_ref<uint64_t>(*p).store(value, std::memory_order_release);
}
inline uint64_t Nanoseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count());
}
// More ranks than cores: what is waited for needs the core.
inline void Pause() { std::this_thread::sleep_for(std::chrono::microseconds(20)); }
inline void CopyAsync16(char* to_shared, const char* from) {
  emulation::CheckAligned(to_shared, 16);
  emulation::CheckAligned(from, 16);
  emulation::BeginCopy(to_shared, from, 16);
}
inline void CopyAsync8(char* to_shared, const char* from) {
  emulation::CheckAligned(to_shared, 8);
  emulation::CheckAligned(from, 8);
  emulation::BeginCopy(to_shared, from, 8);
}
inline void CopyAsync4(float* to_shared, const float* from) {
  emulation::BeginCopy(reinterpret_cast<char*>(to_shared), reinterpret_cast<const char*>(from), 4);
}
inline void EndCopies() { emulation::EndCopies(); }
template <int kLeft>
void AwaitCopies() {
  emulation::AwaitCopies(kLeft);
}
inline void AtomicAdd(uint64_t* to, uint64_t value) { *to += value; }  // fibers do not preempt
inline void AtomicAdd(uint32_t* to, uint32_t value) { *to += value; }
inline float HalfBitsToFloat(uint16_t bits) { return HalfToFloat(bits); }

inline void MmaBf16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::MultiplyAdd(sums, a, b0, b1, emulation::Pairs::kBf16);
}
inline void MmaF16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::MultiplyAdd(sums, a, b0, b1, emulation::Pairs::kF16);
}
inline uint32_t HalfPairOf(float first, float second) {
  return FloatToHalf(first) | static_cast<uint32_t>(FloatToHalf(second)) << 16;
}
inline uint32_t Bf16PairOf(float first, float second) {
  const auto rounded = [](float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  };
  return rounded(first) | rounded(second) << 16;
}
inline uint32_t AddBf16Pairs(uint32_t a, uint32_t b) {
  uint32_t sums = 0;
  for (int half = 0; half < 2; ++half) {
    const auto value = [&](uint32_t pair) {
      return std::bit_cast<float>((pair >> (16 * half)) << 16);
    };
    const auto bits = std::bit_cast<uint32_t>(value(a) + value(b));
    if ((bits & 0xffffu) != 0) emulation::Fail("a sum of bfloat16 numbers that is not exact");
    sums |= (bits >> 16) << (16 * half);
  }
  return sums;
}

}  // namespace echelon::cuda
