// kernels/cuda/runtime.h over the emulation: devices of two multiprocessors whose memory is an
// arena of the host's.

#include "kernels/cuda/runtime.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>

#include "common/check.h"
#include "tests/support/cuda_emulation/emulation.h"

namespace echelon {

namespace {

// One device's fault is that of all devices of the program.
std::atomic<bool>& Broken() {
  static std::atomic<bool> broken = false;
  return broken;
}

}  // namespace

void emulation::BreakDevices() { Broken() = true; }

namespace cuda {

namespace {

using emulation::StreamQueue;

StreamQueue& Of(Stream stream) { return *static_cast<StreamQueue*>(stream); }

using Time = std::chrono::steady_clock::time_point;
struct PlayedEvent {
  const bool timed;
  emulation::Place place;
  // When it has happened. Apart: an event may be freed before that.
  std::shared_ptr<Time> time = std::make_shared<Time>();
  bool happened() const {
    CHECK_MSG(!place.capture, "the host asks for an event of a capture");
    return place.stream == nullptr || place.stream->ran() >= place.number;
  }
};
PlayedEvent& OfEvent(Event event) { return *static_cast<PlayedEvent*>(event); }

// All in one arena: ranks that are threads reach each other's memory by address, processes map it.
constexpr int kDevices = 8;

class EmulatedRuntime : public Runtime {
 public:
  EmulatedRuntime() { emulation::ExplainFaults(); }
  int DriverVersion() override { return ToolkitVersion(); }
  int ToolkitVersion() override { return 13000; }
  Outcome DeviceCount(int* count) override {
    *count = kDevices;
    return {};
  }
  Outcome Describe(int device, DeviceInfo* info) override {
    *info = {"emulated on the host", 9, 0, 2, emulation::TheArena().FreeBytes(), uint64_t{1} << 20};
    info->uuid[0] = static_cast<uint8_t>(device + 1);
    return {};
  }
  Outcome Open(int) override { return {}; }
  Outcome FreeMemory(uint64_t* free_bytes, uint64_t* total_bytes) override {
    *free_bytes = *total_bytes = emulation::TheArena().FreeBytes();
    return {};
  }
  Outcome Allocate(size_t bytes, void** memory) override {
    *memory = emulation::TheArena().Take(bytes);
    if (*memory != nullptr) return {};
    return {Failure::kOutOfMemory, 2, "the emulated device is full"};
  }
  // As cudaFree, which waits for what runs.
  void Free(void* memory) override {
    for (StreamQueue* stream : streams_) stream->RunTo(stream->end());
    emulation::TheArena().Give(memory);
  }
  Outcome AllocatePinned(size_t bytes, void** memory) override {
    *memory = std::malloc(bytes);
    return {};
  }
  void FreePinned(void* memory) override {
    for (const StreamQueue* stream : streams_) {
      CHECK_MSG(stream->ran() == stream->end(), "page-locked memory is freed, copies may use it");
    }
    std::free(memory);
  }
  Outcome ShareMemory(void* memory, MemoryHandle* handle) override {
    const emulation::Arena::Handle shared = emulation::TheArena().Share(memory);
    static_assert(sizeof(shared) <= sizeof(*handle));
    std::memcpy(handle->data(), &shared, sizeof(shared));
    return {};
  }
  Outcome MapMemory(const MemoryHandle& handle, void** memory) override {
    emulation::Arena::Handle shared;
    std::memcpy(&shared, handle.data(), sizeof(shared));
    *memory = nullptr;
    if (shared.process != getpid()) *memory = emulation::TheArena().Map(shared);
    if (*memory != nullptr) return {};
    return {Failure::kOther, 201, "cudaErrorDeviceUninitialized: no other process has it"};
  }
  void UnmapMemory(void* memory) override {
    for (StreamQueue* stream : streams_) stream->RunTo(stream->end());
    emulation::TheArena().Unmap(memory);
  }
  Outcome EnablePeer(int) override { return {}; }
  Outcome NewStream(bool, Stream* stream) override {
    auto* made = new StreamQueue();
    streams_.insert(made);
    *stream = made;
    return {};
  }
  void FreeStream(Stream stream) override {
    // Others may wait for places of it.
    for (StreamQueue* other : streams_) other->RunTo(other->end());
    streams_.erase(&Of(stream));
    delete &Of(stream);
  }
  Outcome CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return Copy(to, from, bytes, stream);
  }
  Outcome CopyToHost(void* to, const void* from, size_t bytes, Stream stream) override {
    return Copy(to, from, bytes, stream);
  }
  Outcome CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    Of(stream).EnqueueKernel([=] { emulation::CopyDevice(to, from, bytes); });
    return {};
  }
  Outcome Clear(void* memory, size_t bytes, Stream stream) override {
    Of(stream).EnqueueCopy([=] { emulation::ClearDevice(memory, bytes); });
    return {};
  }
  Outcome Wait(Stream stream) override {
    Of(stream).RunTo(Of(stream).end());
    return {};
  }
  Outcome LastError() override {
    if (!Broken()) return {};
    return {Failure::kOther, 700, "cudaErrorIllegalAddress: an illegal memory access"};
  }
  Outcome BeginCapture(Stream stream) override {
    Of(stream).BeginCapture();
    return {};
  }
  Outcome EndCapture(Stream stream, Graph* graph) override {
    auto launches = Of(stream).EndCapture();
    *graph = launches ? new emulation::Launches(*std::move(launches)) : nullptr;
    if (launches) return {};
    return {Failure::kOther, 904, "cudaErrorStreamCaptureUnjoined"};
  }
  Outcome LaunchGraph(Graph graph, Stream stream) override {
    Of(stream).EnqueueGraph(*static_cast<emulation::Launches*>(graph));
    return {};
  }
  void FreeGraph(Graph graph) override { delete static_cast<emulation::Launches*>(graph); }
  Outcome NewEvent(bool timed, Event* event) override {
    *event = new PlayedEvent{timed};
    return {};
  }
  void FreeEvent(Event event) override { delete &OfEvent(event); }
  Outcome Record(Event event, Stream stream) override {
    OfEvent(event).place = Of(stream).Record(
        [time = OfEvent(event).time] { *time = std::chrono::steady_clock::now(); });
    return {};
  }
  Outcome WaitFor(Stream stream, Event event) override {
    Of(stream).WaitFor(OfEvent(event).place);
    return {};
  }
  Outcome WaitEvent(Event event) override {
    if (!OfEvent(event).happened()) OfEvent(event).place.stream->RunTo(OfEvent(event).place.number);
    return {};
  }
  Outcome Query(Event event, bool* happened) override {
    *happened = OfEvent(event).happened();
    if (!*happened) OfEvent(event).place.stream->RunOne();
    return {};
  }
  Outcome Milliseconds(Event from, Event to, float* elapsed) override {
    CHECK(OfEvent(from).happened() && OfEvent(to).happened());
    if (!OfEvent(from).timed || !OfEvent(to).timed) {
      return {Failure::kOther, 400, "cudaErrorInvalidResourceHandle: an event without timing"};
    }
    const std::chrono::duration<float, std::milli> took = *OfEvent(to).time - *OfEvent(from).time;
    *elapsed = took.count();
    return {};
  }

 private:
  static Outcome Copy(void* to, const void* from, size_t bytes, Stream stream) {
    Of(stream).EnqueueCopy([=] { emulation::CopyDevice(to, from, bytes); });
    return {};
  }

  std::set<StreamQueue*> streams_;
};

}  // namespace

std::unique_ptr<Runtime> MakeRuntime() { return std::make_unique<EmulatedRuntime>(); }

}  // namespace cuda
}  // namespace echelon
