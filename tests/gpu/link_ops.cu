// A delay on the device: one thread that looks at the device's clock. A kernel and no function of
// the host: that one would be called by a thread of the driver's, some ten microseconds late, and
// every rank's host would pay for it. It takes one place of one multiprocessor, as a transfer by a
// kernel of NCCL's would take several; its parameters lie in device memory, so that a graph that
// holds it is good for every link.

#include "kernels/cuda/device.cuh"
#include "tests/gpu/link_ops.h"

namespace echelon::bench {

namespace {

__device__ uint64_t Now() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

__global__ void DelayKernel(LinkMeter* meter, uint64_t bytes) {
  if (threadIdx.x != 0) return;
  const uint64_t begin = Now();
  const uint64_t ns = meter->latency_ns + bytes * meter->femtoseconds_per_byte / 1'000'000;
  while (Now() - begin < ns) __nanosleep(100);
  ++meter->operations;
  meter->bytes += bytes;
  meter->delayed_ns += ns;
}

}  // namespace

void PrepareDevice() {}

void CopyOn(void* stream, void* to, const void* from, size_t bytes) {
  cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream));
}

void DelayOn(void* stream, LinkMeter* meter, uint64_t bytes) {
  cuda::Launch(stream, {}, 32, 0, DelayKernel, meter, bytes);
}

}  // namespace echelon::bench
