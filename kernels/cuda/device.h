#pragma once
// Device: one open CUDA device with its stream: memory, copies, waiting, and the first error that
// any of them met. After an error everything enqueued is dropped, so that the host comes to the
// place where it asks (failure()). One thread. Outlives all memory taken from it.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/runtime.h"

namespace echelon::cuda {

class Device {
 public:
  static Result<std::unique_ptr<Device>> Open(std::unique_ptr<Runtime> runtime, int number);
  ~Device();

  // `what` completes "... needs N bytes" in the error.
  Result<DeviceMemory> Allocate(size_t bytes, const char* what);
  // Makes `memory` that large at least, with new contents where it grows; false and a failure where
  // there is none. What was too small is kept until the end: giving memory back waits for all that
  // runs on the device, other threads' kernels too, which may wait for what this thread is yet to
  // enqueue. Growing by half at least, all that is kept takes twice the last size at most.
  bool Reserve(size_t bytes, const char* what, DeviceMemory& memory);
  // Page-locked host memory, to be freed through runtime(); false and a failure where there is
  // none.
  bool AllocatePinned(size_t bytes, void** memory);
  void CopyIn(void* to, const void* from, size_t bytes);   // host to device, on the stream
  void CopyOut(void* to, const void* from, size_t bytes);  // device to host, on the stream
  void CopyOnDevice(void* to, const void* from, size_t bytes);
  void Clear(void* memory, size_t bytes);
  void Wait();
  // Waits where there is a watch: before what waits in the driver, where it could not look.
  void WaitWatched() {
    if (watch_) Wait();
  }
  Event NewEvent(bool timed = false);
  void Record(Event event);
  bool Happened(Event event);
  // Waits for the event whatever has failed since it was recorded; what happened until then.
  Status WaitEvent(Event event);
  // Called about every millisecond while the host waits in Wait or WaitEvent, and at the end, when
  // it is `over`; its error ends that and is kept. None: the host sleeps in the driver.
  void SetWatch(std::function<Status(bool over)> watch) { watch_ = std::move(watch); }
  // For who asks Happened in turn: calls the watch, at most every millisecond, and keeps its error.
  // Whether there is none.
  bool WatchedWell() { return !watch_ || Look(false).ok(); }
  // What `ops` enqueues, as a graph; false, none and a failure where that cannot be.
  bool Capture(const std::function<void()>& ops, Graph* graph);
  void LaunchGraph(Graph graph);
  // To be called after launches; their errors are found here or in Wait.
  void CheckLaunch();
  // The first error of any of these, or of Fail.
  const std::optional<Error>& failure() const { return failure_; }
  void Note(const Outcome& outcome);
  void Fail(const Error& error) {
    if (!failure_) failure_ = error;
  }

  Runtime& runtime() { return *runtime_; }
  Stream stream() const { return stream_; }
  const DeviceInfo& info() const { return info_; }
  int number() const { return number_; }
  std::string name() const;
  uint64_t FreeBytes() const;

 private:
  Device(std::unique_ptr<Runtime> runtime, int number, const DeviceInfo& info)
      : runtime_(std::move(runtime)), number_(number), info_(info) {}
  // Polls, with the watch between, and keeps the watch's error.
  Status WatchEvent(Event event);
  Status Look(bool over);

  const std::unique_ptr<Runtime> runtime_;
  const int number_;
  const DeviceInfo info_;
  Stream stream_ = nullptr;
  Event waited_ = nullptr;  // what Wait waits for under a watch
  std::function<Status(bool over)> watch_;
  std::chrono::steady_clock::time_point watch_next_;
  std::optional<Error> failure_;
  std::vector<DeviceMemory> outgrown_;
};

}  // namespace echelon::cuda
