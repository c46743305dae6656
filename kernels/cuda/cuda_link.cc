#include "kernels/cuda/cuda_link.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "common/check.h"
#include "common/strings.h"
#include "kernels/cuda/cuda_mailboxes.h"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

namespace {

// This process on its host: containers number theirs apart, so that the number alone says little.
int64_t ProcessIdentity() {
  struct stat numbers = {};
  stat("/proc/self/ns/pid", &numbers);
  return static_cast<int64_t>(numbers.st_ino << 32) | getpid();
}

// Another rank's memory: of this process, by its address alone, or mapped.
class PeerBuffer : public DeviceBuffer {
 public:
  PeerBuffer(void* data, size_t bytes, Runtime* mapped_by)
      : data_(data), bytes_(bytes), mapped_by_(mapped_by) {}
  ~PeerBuffer() override {
    if (mapped_by_ != nullptr) mapped_by_->UnmapMemory(data_);
  }
  void* data() override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* const data_;
  const size_t bytes_;
  Runtime* const mapped_by_;  // or null
};

}  // namespace

Result<std::unique_ptr<DeviceLink>> CudaLink::Create(Device& device, Recorder& recorder,
                                                     std::vector<CudaLink*>& links, bool timed,
                                                     std::function<void()> joined) {
  std::unique_ptr<CudaLink> link(new CudaLink(device, recorder, links, timed, std::move(joined)));
  // Messages hold up other ranks; this one's ops have more blocks than find a place at once.
  device.Note(device.runtime().NewStream(true, &link->stream_));
  link->fork_ = device.NewEvent();
  for (Event& event : link->places_) event = device.NewEvent();
  if (device.failure()) return *device.failure();
  return std::unique_ptr<DeviceLink>(std::move(link));
}

CudaLink::CudaLink(Device& device, Recorder& recorder, std::vector<CudaLink*>& links, bool timed,
                   std::function<void()> joined)
    : device_(device),
      recorder_(recorder),
      links_(links),
      timed_(timed),
      on_join_(std::move(joined)) {
  const DeviceInfo& info = device.info();
  card_ = {device.name(),
           info.uuid,
           ProcessIdentity(),
           info.mps,
           device.runtime().DriverVersion(),
           device.runtime().ToolkitVersion(),
           info.memory_bytes};
  links_.push_back(this);
}

CudaLink::~CudaLink() {
  JoinAll();
  device_.Wait();
  std::erase(links_, this);
  for (const Span& span : spans_) free_events_.insert(free_events_.end(), {span.from, span.to});
  free_events_.insert(free_events_.end(), places_.begin(), places_.end());
  free_events_.push_back(fork_);
  for (const Event event : free_events_) {
    if (event != nullptr) device_.runtime().FreeEvent(event);
  }
  if (stream_ != nullptr) device_.runtime().FreeStream(stream_);
}

uint64_t CudaLink::Enqueue(std::span<const uint64_t> facts,
                           const std::function<Status(void* stream)>& launch) {
  const uint64_t place = ++placed_;
  if (recorder_.Enqueue(Op::kLink, stream_, facts)) Run(place, launch);
  return place;
}

uint64_t CudaLink::Sum(std::span<const float* const> terms, int64_t count, float* out) {
  CHECK(!terms.empty() && terms.size() <= DeviceLink::kTermsMax && count >= 0);
  const uint64_t place = ++placed_;
  if (!recorder_.Enqueue(Op::kLinkSum, stream_, terms, count, out)) return place;
  SumParams params = {{}, static_cast<int>(terms.size()), count, out};
  std::ranges::copy(terms, params.terms);
  Run(place, [&](Stream stream) {
    if (count > 0) LaunchSum(stream, params);
    return Status();
  });
  return place;
}

void CudaLink::Run(uint64_t place, const std::function<Status(void* stream)>& launch) {
  device_.Record(fork_);
  device_.Note(device_.runtime().WaitFor(stream_, fork_));
  Timed(stream_, &LinkTimes::busy_seconds, [&] {
    if (const Status launched = launch(stream_); !launched.ok()) device_.Fail(launched.error());
  });
  device_.Note(device_.runtime().Record(PlaceEvent(place), stream_));
}

void CudaLink::Join(uint64_t place) {
  CHECK(place <= placed_);
  if (place <= joined_) return;
  joined_ = place;
  on_join_();
  if (!recorder_.Enqueue(Op::kJoin, stream_, placed_ - place)) return;
  const uint64_t oldest = placed_ - std::min(placed_ - 1, kPlacesMax - 1);
  const Event event = PlaceEvent(std::max(place, oldest));
  Timed(device_.stream(), &LinkTimes::exposed_seconds,
        [&] { device_.Note(device_.runtime().WaitFor(device_.stream(), event)); });
}

PeerHandle CudaLink::Share(DeviceBuffer& memory) {
  PeerHandle handle;
  handle.for_processes = device_.runtime().ShareMemory(memory.data(), &handle.ipc).ok();
  handle.process = ProcessIdentity();
  handle.device = device_.number();
  handle.address = reinterpret_cast<uintptr_t>(memory.data());
  handle.bytes = memory.bytes();
  return handle;
}

Result<std::unique_ptr<DeviceBuffer>> CudaLink::Map(const PeerHandle& handle) {
  Runtime& runtime = device_.runtime();
  void* data = reinterpret_cast<void*>(static_cast<uintptr_t>(handle.address));
  Outcome reached;
  const bool foreign = handle.process != ProcessIdentity();
  if (foreign && !handle.for_processes) {
    reached = {Failure::kOther, 0, "its driver shares no memory between processes"};
  } else if (foreign) {
    reached = runtime.MapMemory(handle.ipc, &data);
  } else if (handle.device != device_.number()) {
    reached = runtime.EnablePeer(handle.device);
  }
  if (!reached.ok()) {
    return Unsupported(StrCat(card_.name, ": does not reach the memory of ",
                              foreign ? "another process's device " : "CUDA device ", handle.device,
                              " (", reached.text,
                              "): let ranks of this host exchange by another way"));
  }
  return std::unique_ptr<DeviceBuffer>(
      new PeerBuffer(data, handle.bytes, foreign ? &runtime : nullptr));
}

Result<std::unique_ptr<Mailboxes>> CudaLink::NewMailboxes(const MailboxOptions& options) {
  return CudaMailboxes::Create(*this, options);
}

LinkTimes CudaLink::TakeTimes() {
  SumSpans();
  return std::exchange(times_, {});
}

void CudaLink::Timed(Stream stream, double LinkTimes::*sum, const std::function<void()>& work) {
  if (!timed_) return work();
  if (spans_.size() >= kSpansMax) SumSpans();
  const Span span = {TakeEvent(), TakeEvent(), sum};
  if (device_.failure()) return;
  device_.Note(device_.runtime().Record(span.from, stream));
  work();
  device_.Note(device_.runtime().Record(span.to, stream));
  spans_.push_back(span);
}

// Those that have not happened yet stay.
void CudaLink::SumSpans() {
  std::erase_if(spans_, [&](const Span& span) {
    if (device_.failure() || !device_.Happened(span.to)) return false;
    float milliseconds = 0.0f;
    device_.Note(device_.runtime().Milliseconds(span.from, span.to, &milliseconds));
    times_.*span.sum += 1e-3 * milliseconds;
    free_events_.insert(free_events_.end(), {span.from, span.to});
    return true;
  });
}

Event CudaLink::TakeEvent() {
  if (free_events_.empty()) return device_.NewEvent(true);
  const Event event = free_events_.back();
  free_events_.pop_back();
  return event;
}

}  // namespace echelon::cuda
