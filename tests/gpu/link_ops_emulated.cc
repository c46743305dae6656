// The same on the emulated device, by code of the host.

#include <chrono>
#include <thread>

#include "tests/gpu/link_ops.h"
#include "tests/support/cuda_emulation/emulation.h"

namespace echelon::bench {

// Streams that run by themselves, as a device's: delays would pass only when somebody waits.
void PrepareDevice() { emulation::SetEager(true); }

void CopyOn(void* stream, void* to, const void* from, size_t bytes) {
  emulation::EnqueueOn(stream, [=] { emulation::CopyDevice(to, from, bytes); });
}

void DelayOn(void* stream, LinkMeter* meter, uint64_t bytes) {
  emulation::EnqueueOn(stream, [=] {
    LinkMeter now;
    emulation::CopyDevice(&now, meter, sizeof(now));
    const uint64_t ns = now.latency_ns + bytes * now.femtoseconds_per_byte / 1'000'000;
    std::this_thread::sleep_for(std::chrono::nanoseconds(ns));
    ++now.operations;
    now.bytes += bytes;
    now.delayed_ns += ns;
    emulation::CopyDevice(meter, &now, sizeof(now));
  });
}

}  // namespace echelon::bench
