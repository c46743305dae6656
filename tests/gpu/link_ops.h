#pragma once
// What an emulated link (emulated_link.h) asks of a device, enqueued on one of its streams; in a
// capture they become a part of the graph. link_ops.cu for NVIDIA's, link_ops_emulated.cc for the
// emulation.

#include <cstddef>
#include <cstdint>

namespace echelon::bench {

// In device memory, of one queue: how long its messages take, and what it has carried.
struct LinkMeter {
  uint64_t latency_ns = 0, femtoseconds_per_byte = 0;
  uint64_t operations = 0, bytes = 0, delayed_ns = 0;
};

// Before any backend is made.
void PrepareDevice();
void CopyOn(void* stream, void* to, const void* from, size_t bytes);
// The stream stands still for as long as the meter says that `bytes` take, and they are counted.
void DelayOn(void* stream, LinkMeter* meter, uint64_t bytes);

}  // namespace echelon::bench
