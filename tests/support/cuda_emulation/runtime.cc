// kernels/cuda/runtime.h over the emulation: a device of two multiprocessors whose memory is an
// arena of the host's.

#include "kernels/cuda/runtime.h"

#include <chrono>
#include <cstdlib>

#include "tests/support/cuda_emulation/emulation.h"

namespace echelon::cuda {

namespace {

using Clock = std::chrono::steady_clock;

class EmulatedRuntime : public Runtime {
 public:
  int DriverVersion() override { return ToolkitVersion(); }
  int ToolkitVersion() override { return 13000; }
  Outcome DeviceCount(int* count) override {
    *count = 1;
    return {};
  }
  Outcome Describe(int, DeviceInfo* info) override {
    *info = {"emulated on the host", 9, 0, 2, emulation::FreeDeviceBytes(), uint64_t{1} << 20};
    return {};
  }
  Outcome Open(int) override { return {}; }
  Outcome FreeMemory(uint64_t* free_bytes, uint64_t* total_bytes) override {
    *free_bytes = *total_bytes = emulation::FreeDeviceBytes();
    return {};
  }
  Outcome Allocate(size_t bytes, void** memory) override {
    *memory = emulation::AllocateDevice(bytes);
    if (*memory != nullptr) return {};
    return {Failure::kOutOfMemory, 2, "the emulated device is full"};
  }
  void Free(void* memory) override { emulation::FreeDevice(memory); }
  Outcome AllocatePinned(size_t bytes, void** memory) override {
    *memory = std::malloc(bytes);
    return {};
  }
  void FreePinned(void* memory) override { std::free(memory); }
  Outcome NewStream(Stream* stream) override {
    *stream = this;
    return {};
  }
  void FreeStream(Stream) override {}
  Outcome CopyToDevice(void* to, const void* from, size_t bytes, Stream) override {
    emulation::CopyDevice(to, from, bytes);
    return {};
  }
  Outcome CopyToHost(void* to, const void* from, size_t bytes, Stream) override {
    emulation::CopyDevice(to, from, bytes);
    return {};
  }
  Outcome Clear(void* memory, size_t bytes, Stream) override {
    emulation::ClearDevice(memory, bytes);
    return {};
  }
  Outcome Wait(Stream) override { return {}; }
  Outcome LastError() override { return {}; }
  Outcome BeginCapture(Stream) override {
    emulation::BeginCapture();
    return {};
  }
  Outcome EndCapture(Stream, Graph* graph) override {
    *graph = new emulation::Launches(emulation::EndCapture());
    return {};
  }
  Outcome LaunchGraph(Graph graph, Stream) override {
    for (const auto& launch : *static_cast<emulation::Launches*>(graph)) launch();
    return {};
  }
  void FreeGraph(Graph graph) override { delete static_cast<emulation::Launches*>(graph); }
  Outcome NewEvent(Event* event) override {
    *event = new Clock::time_point();
    return {};
  }
  void FreeEvent(Event event) override { delete static_cast<Clock::time_point*>(event); }
  Outcome Record(Event event, Stream) override {
    *static_cast<Clock::time_point*>(event) = Clock::now();
    return {};
  }
  Outcome Milliseconds(Event from, Event to, float* elapsed) override {
    const std::chrono::duration<float, std::milli> took =
        *static_cast<Clock::time_point*>(to) - *static_cast<Clock::time_point*>(from);
    *elapsed = took.count();
    return {};
  }
};

}  // namespace

std::unique_ptr<Runtime> MakeRuntime() { return std::make_unique<EmulatedRuntime>(); }

}  // namespace echelon::cuda
