#pragma once
// WatchedRuntime: a Runtime over another one that counts what the host asks for, and fails where a
// test says so. One thread.

#include <memory>
#include <utility>

#include "kernels/cuda/runtime.h"

namespace echelon::cuda {

class WatchedRuntime : public Runtime {
 public:
  explicit WatchedRuntime(std::unique_ptr<Runtime> inner) : inner_(std::move(inner)) {}

  int events_recorded = 0, events_awaited = 0, streams_awaited = 0, mapped = 0, graphs = 0;
  int events_queried = 0, graphs_launched = 0;
  bool stuck = false;  // no event happens
  // What these come to from now on.
  Outcome last_error, event_awaited, event_queried, peer_enabled, shared;

  int DriverVersion() override { return inner_->DriverVersion(); }
  int ToolkitVersion() override { return inner_->ToolkitVersion(); }
  Outcome DeviceCount(int* count) override { return inner_->DeviceCount(count); }
  Outcome Describe(int device, DeviceInfo* info) override { return inner_->Describe(device, info); }
  Outcome Open(int device) override { return inner_->Open(device); }
  Outcome FreeMemory(uint64_t* free, uint64_t* total) override {
    return inner_->FreeMemory(free, total);
  }
  Outcome Allocate(size_t bytes, void** memory) override { return inner_->Allocate(bytes, memory); }
  void Free(void* memory) override { inner_->Free(memory); }
  Outcome AllocatePinned(size_t bytes, void** memory) override {
    return inner_->AllocatePinned(bytes, memory);
  }
  void FreePinned(void* memory) override { inner_->FreePinned(memory); }
  Outcome ShareMemory(void* memory, MemoryHandle* handle) override {
    return shared.ok() ? inner_->ShareMemory(memory, handle) : shared;
  }
  Outcome MapMemory(const MemoryHandle& handle, void** memory) override {
    ++mapped;
    return inner_->MapMemory(handle, memory);
  }
  void UnmapMemory(void* memory) override {
    --mapped;
    inner_->UnmapMemory(memory);
  }
  Outcome EnablePeer(int device) override {
    return peer_enabled.ok() ? inner_->EnablePeer(device) : peer_enabled;
  }
  Outcome NewStream(bool urgent, Stream* stream) override {
    return inner_->NewStream(urgent, stream);
  }
  void FreeStream(Stream stream) override { inner_->FreeStream(stream); }
  Outcome CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return inner_->CopyToDevice(to, from, bytes, stream);
  }
  Outcome CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return inner_->CopyOnDevice(to, from, bytes, stream);
  }
  Outcome CopyToHost(void* to, const void* from, size_t bytes, Stream stream) override {
    return inner_->CopyToHost(to, from, bytes, stream);
  }
  Outcome Clear(void* memory, size_t bytes, Stream stream) override {
    return inner_->Clear(memory, bytes, stream);
  }
  Outcome Wait(Stream stream) override {
    ++streams_awaited;
    return inner_->Wait(stream);
  }
  Outcome LastError() override { return last_error.ok() ? inner_->LastError() : last_error; }
  Outcome BeginCapture(Stream stream) override { return inner_->BeginCapture(stream); }
  Outcome EndCapture(Stream stream, Graph* graph) override {
    const Outcome ended = inner_->EndCapture(stream, graph);
    if (*graph != nullptr) ++graphs;
    return ended;
  }
  Outcome LaunchGraph(Graph graph, Stream stream) override {
    ++graphs_launched;
    return inner_->LaunchGraph(graph, stream);
  }
  void FreeGraph(Graph graph) override {
    --graphs;
    inner_->FreeGraph(graph);
  }
  Outcome NewEvent(bool timed, Event* event) override { return inner_->NewEvent(timed, event); }
  void FreeEvent(Event event) override { inner_->FreeEvent(event); }
  Outcome Record(Event event, Stream stream) override {
    ++events_recorded;
    return inner_->Record(event, stream);
  }
  Outcome WaitFor(Stream stream, Event event) override { return inner_->WaitFor(stream, event); }
  Outcome WaitEvent(Event event) override {
    ++events_awaited;
    return event_awaited.ok() ? inner_->WaitEvent(event) : event_awaited;
  }
  Outcome Query(Event event, bool* happened) override {
    ++events_queried;
    *happened = false;
    if (!event_queried.ok()) return event_queried;
    return stuck ? Outcome() : inner_->Query(event, happened);
  }
  Outcome Milliseconds(Event from, Event to, float* elapsed) override {
    return inner_->Milliseconds(from, to, elapsed);
  }

 private:
  const std::unique_ptr<Runtime> inner_;
};

}  // namespace echelon::cuda
