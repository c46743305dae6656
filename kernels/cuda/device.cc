#include "kernels/cuda/device.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "common/strings.h"
#include "kernels/cuda/probe.h"

namespace echelon::cuda {

namespace {
constexpr auto kWatchEvery = std::chrono::milliseconds(1);
}  // namespace

Result<std::unique_ptr<Device>> Device::Open(std::unique_ptr<Runtime> runtime, int number) {
  ASSIGN_OR_RETURN(const DeviceInfo info, OpenDevice(*runtime, number));
  std::unique_ptr<Device> device(new Device(std::move(runtime), number, info));
  if (const Outcome made = device->runtime_->NewStream(false, &device->stream_); !made.ok()) {
    return StepError(number, info, made);
  }
  device->waited_ = device->NewEvent();
  if (device->failure_) return *device->failure_;
  return device;
}

Device::~Device() {
  if (waited_ != nullptr) runtime_->FreeEvent(waited_);
  if (stream_ != nullptr) runtime_->FreeStream(stream_);
}

std::string Device::name() const { return DeviceName(number_, info_); }

Result<DeviceMemory> Device::Allocate(size_t bytes, const char* what) {
  void* memory = nullptr;
  const size_t asked = std::max<size_t>(bytes, 1);
  if (const Outcome got = runtime_->Allocate(asked, &memory); !got.ok()) {
    if (got.failure == Failure::kOutOfMemory) {
      return MemoryError(*runtime_, number_, info_, bytes, what);
    }
    return StepError(number_, info_, got);
  }
  return DeviceMemory(*runtime_, memory, bytes);
}

bool Device::Reserve(size_t bytes, const char* what, DeviceMemory& memory) {
  if (bytes <= memory.bytes()) return true;
  auto made = Allocate(std::max(bytes, memory.bytes() + memory.bytes() / 2), what);
  if (!made.ok()) {
    Fail(made.error());
    return false;
  }
  if (memory.bytes() > 0) outgrown_.push_back(std::move(memory));
  memory = std::move(made).value();
  return true;
}

bool Device::AllocatePinned(size_t bytes, void** memory) {
  if (runtime_->AllocatePinned(bytes, memory).ok()) return true;
  Fail(ResourceExhausted(
      StrCat(name(), ": this host gives no page-locked memory for ", bytes, " bytes")));
  return false;
}

void Device::CopyIn(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && !failure_) Note(runtime_->CopyToDevice(to, from, bytes, stream_));
}

void Device::CopyOut(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && !failure_) Note(runtime_->CopyToHost(to, from, bytes, stream_));
}

void Device::CopyOnDevice(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && !failure_) Note(runtime_->CopyOnDevice(to, from, bytes, stream_));
}

void Device::Clear(void* memory, size_t bytes) {
  if (bytes > 0 && !failure_) Note(runtime_->Clear(memory, bytes, stream_));
}

bool Device::Capture(const std::function<void()>& ops, Graph* graph) {
  if (failure_) return false;
  Note(runtime_->BeginCapture(stream_));
  if (failure_) return false;
  ops();
  Note(runtime_->EndCapture(stream_, graph));
  if (failure_ && *graph != nullptr) runtime_->FreeGraph(std::exchange(*graph, nullptr));
  return !failure_;
}

void Device::LaunchGraph(Graph graph) {
  if (!failure_) Note(runtime_->LaunchGraph(graph, stream_));
}

void Device::Wait() {
  if (failure_) return;
  if (!watch_) return Note(runtime_->Wait(stream_));
  Record(waited_);
  if (!failure_) static_cast<void>(WatchEvent(waited_));  // it keeps its error
}

Status Device::WatchEvent(Event event) {
  for (;; std::this_thread::yield()) {
    bool happened = false;
    const Outcome outcome = runtime_->Query(event, &happened);
    Note(outcome);
    if (!outcome.ok()) return StepError(number_, info_, outcome);
    // Also when it has happened: an operation that gave up has ended, too.
    if (const Status watched = Look(happened); !watched.ok()) return watched;
    if (happened) return {};
  }
}

Status Device::Look(bool over) {
  const auto now = std::chrono::steady_clock::now();
  if (!over && now < watch_next_) return {};
  watch_next_ = now + kWatchEvery;
  const Status watched = watch_(over);
  if (!watched.ok()) Fail(watched.error());
  return watched;
}

Event Device::NewEvent(bool timed) {
  Event event = nullptr;
  Note(runtime_->NewEvent(timed, &event));
  return event;
}

void Device::Record(Event event) {
  if (!failure_) Note(runtime_->Record(event, stream_));
}

// After an error there is nothing to wait for: WaitEvent says which.
bool Device::Happened(Event event) {
  bool happened = false;
  return !runtime_->Query(event, &happened).ok() || happened;
}

Status Device::WaitEvent(Event event) {
  if (watch_) return WatchEvent(event);
  const Outcome outcome = runtime_->WaitEvent(event);
  if (outcome.ok()) return {};
  Note(outcome);
  return StepError(number_, info_, outcome);
}

void Device::CheckLaunch() {
  if (!failure_) Note(runtime_->LastError());
}

void Device::Note(const Outcome& outcome) {
  if (!outcome.ok()) Fail(StepError(number_, info_, outcome));
}

uint64_t Device::FreeBytes() const {
  uint64_t free = 0, total = 0;
  return runtime_->FreeMemory(&free, &total).ok() ? free : 0;
}

}  // namespace echelon::cuda
