#pragma once
// Runs CUDA kernels on the host: every thread of a block is a fiber, barriers and shuffles switch
// between them, blocks run one after the other; those of a kernel that waits for others run at
// once, each in a thread of the host, as kernels of eager streams do. For correctness alone: it is
// about 10,000 times slower than a GPU. What it finds: wrong indices (device memory is unreadable
// outside kernels, so a host pointer mixed up with a device pointer faults; allocations and the
// shared memory of a launch end at pages that nobody can touch: arena.h, block_shared.h), reads of
// what nobody wrote (unwritten.h), more shared memory than a launch is given, a barrier or shuffle
// that some thread does not reach, misaligned vector loads, and, because fibers run in another
// order each time, most missing barriers. What it cannot find: what depends on the hardware (memory
// order between warps, launch limits beyond those checked here, speed), and an index that stays
// within an allocation or goes from one of a kernel's __shared__ variables into the next.
//
// When kernels run: stream_queue.h. Device memory can be read by the host while any kernel runs: a
// mixed-up pointer is found where one stream at a time runs.

#include <cstddef>
#include <cstdint>
#include <functional>

#include "tests/support/cuda_emulation/arena.h"
#include "tests/support/cuda_emulation/stream_queue.h"

namespace echelon::emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Where the running fiber is.
struct Fiber {
  Index thread, block, grid;
};
const Fiber& Current();

struct LaunchShape {
  const void* kernel = nullptr;  // the function
  Index grid;
  unsigned threads = 0;
  size_t shared_bytes = 0;
};
// `body` calls the kernel with its arguments.
void RunGrid(const LaunchShape& shape, const std::function<void()>& body);
void RunTogether(const LaunchShape& shape, const std::function<void()>& body);

// Inside a kernel.
void WaitForBlock();
void WaitForWarp();
float ExchangeWithLane(float value, int distance);
// A warp's mma.m16n8k16 (kernels/cuda/device.cuh): products added in ascending order, in double.
enum class Pairs { kBf16, kF16 };
void MultiplyAdd(float* sums, const uint32_t* a, uint32_t b0, uint32_t b1, Pairs pairs);
char* DynamicShared();
void Fail(const char* why);  // ends the program
void CheckAligned(const void* p, size_t bytes);

// Accesses outside of device memory end the program with a line that says by whom and where.
void ExplainFaults();
// From now on every launch has met an illegal access. For any thread, and for signal handlers.
void BreakDevices();

}  // namespace echelon::emulation
