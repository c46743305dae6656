#pragma once
// The few things that kernels take from CUDA, in one place: how they are launched, and the
// instructions that C++ has no words for. Everything else in the .cu files is plain C++, so that
// the same sources also run on the host under tests/support/cuda_emulation, whose header of this
// name stands in for this one.
//
// Rules for kernels, which the emulation checks: every thread of a block reaches every
// __syncthreads(), every lane of a warp every shuffle; blocks have whole warps.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/runtime.h"

namespace echelon::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
// Shared memory that a block gets without asking, what every device of compute capability 8.0 or
// more gives it when asked, and what a kernel's own variables take of either at most: Launch knows
// only of the rest.
inline constexpr size_t kSharedBytesUnasked = size_t{48} << 10;
inline constexpr size_t kSharedBytesMax = size_t{99} << 10;
inline constexpr size_t kSharedBytesStaticMax = size_t{24} << 10;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

// Enqueues kernel(args...) on the stream. Errors of the launch are found by Runtime::LastError().
template <typename... Parameters, typename... Arguments>
void Launch(Stream stream, Grid grid, unsigned threads, size_t shared_bytes,
            void (*kernel)(Parameters...), const Arguments&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > kSharedBytesUnasked - kSharedBytesStaticMax) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
  }
  kernel<<<dim3(grid.x, grid.y, grid.z), dim3(threads), shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(args...);
}

// The same for a kernel that waits for kernels of other streams, whose blocks all run at once: a
// handful, so that a device has room for them beside what they wait for.
template <typename... Parameters, typename... Arguments>
void LaunchTogether(Stream stream, unsigned blocks, unsigned threads, void (*kernel)(Parameters...),
                    const Arguments&... args) {
  Launch(stream, {blocks}, threads, 0, kernel, args...);
}

// The shared memory whose size Launch was told. 16-byte aligned.
__device__ inline char* DynamicShared() {
  extern __shared__ float4 dynamic_shared[];
  return reinterpret_cast<char*>(dynamic_shared);
}

// 16, 8 and 4 bytes of memory that no thread of the kernel writes.
struct alignas(16) Bytes16 {
  uint32_t word[4];
};
struct Bytes8 {
  uint32_t word[2];
};
__device__ inline Bytes16 Load16(const void* p) {
  const uint4 v = __ldg(static_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
__device__ inline Bytes8 Load8(const void* p) {
  const uint2 v = __ldg(static_cast<const uint2*>(p));
  return {{v.x, v.y}};
}
__device__ inline uint32_t Load4(const void* p) {
  return __ldg(static_cast<const unsigned int*>(p));
}

// 16 bytes of memory that other devices write, too.
__device__ inline Bytes16 Read16(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
__device__ inline void Write16(void* p, const Bytes16& value) {
  *static_cast<uint4*>(p) = make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
}
// Words by which threads of different devices, or a host, tell each other that memory is written:
// who reads the word sees what its writer, and threads that met it at a barrier, had written.
__device__ inline uint64_t ReadAcquire(const uint64_t* p) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(p) : "memory");
  return value;
}
__device__ inline void WriteRelease(uint64_t* p, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" : : "l"(p), "l"(value) : "memory");
}
__device__ inline uint64_t Nanoseconds() {  // of a clock that only goes forward
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
__device__ inline void Pause() { __nanosleep(50); }  // between two looks

// Copies of 16, 8 or 4 bytes from memory that no thread of the kernel writes into shared memory,
// while the thread goes on. Those begun since the last EndCopies are a set; AwaitCopies waits for
// all of this thread's sets but the last kLeft, and a barrier then shows them to the other threads.
__device__ inline void CopyAsync16(char* to_shared, const char* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
               "l"(from)
               : "memory");
}
__device__ inline void CopyAsync8(char* to_shared, const char* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
               "l"(from)
               : "memory");
}
__device__ inline void CopyAsync4(float* to_shared, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
               "l"(from)
               : "memory");
}
__device__ inline void EndCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Of integers: their sums do not depend on the order.
__device__ inline void AtomicAdd(uint64_t* to, uint64_t value) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  atomicAdd(reinterpret_cast<unsigned long long*>(to), value);
}
__device__ inline void AtomicAdd(uint32_t* to, uint32_t value) { atomicAdd(to, value); }

// float16 numbers by the conversion instruction: the same values as common/half.h.
__device__ inline float HalfBitsToFloat(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// sums (16 x 8) += a (16 x 16) . b (16 x 8) by the whole warp, bfloat16 pairs in, on the tensor
// cores. Lane 4 g + t gives a rows g, g + 8 (of pairs 0, 2 and 1, 3) and columns 2t, 2t + 8; b the
// same of its column g; it has sums of rows g (0, 1) and g + 8 (2, 3), columns 2t and 2t + 1.
__device__ inline void MmaBf16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of float16 pairs.
__device__ inline void MmaF16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to nearest, ties to even; the first in the low half.
__device__ inline uint32_t HalfPairOf(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
__device__ inline uint32_t Bf16PairOf(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// Both sums of two pairs of bfloat16 numbers, for sums that are exact.
__device__ inline uint32_t AddBf16Pairs(uint32_t a, uint32_t b) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
  return sum;
}

}  // namespace echelon::cuda
