#pragma once
// How fast the threads of a backend read memory: the ceiling of a decode step, which reads every
// weight once. Measured with the backend's own loads and threads on a block as large as what a
// token reads, so that caches help it as much as they help the weights: on 2 cores of a Sapphire
// Rapids, 96 MiB come at 20 GB/s by 16-byte loads and at 42 GB/s by 64-byte loads, and 256 MiB at
// 27 GB/s.

#include <cstddef>
#include <cstdint>

#include "kernels/thread_pool.h"

namespace echelon {

// The sum of n floats, n a multiple of 64; only its loads matter.
using SumFloats = float (*)(const float* values, int64_t n);

// Bytes a second: the median of 25 passes over `bytes` of host memory (48 MiB: about 60 ms). 0
// where there is no memory for the block. One thread, the one that drives the pool.
double MeasureReadBandwidth(ThreadPool& pool, size_t bytes, SumFloats sum);

}  // namespace echelon
