#include "tests/support/cuda_emulation/stream_queue.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/check.h"
#include "tests/support/cuda_emulation/arena.h"

namespace echelon::emulation {

namespace {

struct Counts {
  std::atomic<size_t> enqueued = 0, captured = 0;
  std::atomic<bool> eager = false;
};
Counts& TheCounts() {
  static Counts counts;
  return counts;
}

}  // namespace

StreamQueue::StreamQueue() {
  if (TheCounts().eager) thread_ = std::thread([this] { RunAll(); });
}

StreamQueue::~StreamQueue() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void StreamQueue::EnqueueKernel(std::function<void()> launch) {
  if (capture_) {
    ++capture_->streams[this][this];
    return capture_->launches.push_back(std::move(launch));
  }
  ++TheCounts().enqueued;
  Push(std::move(launch));
}

void StreamQueue::EnqueueGraph(const Launches& graph) {
  TheCounts().enqueued += graph.size();
  for (const auto& launch : graph) Push(launch);
}

void StreamQueue::EnqueueCopy(std::function<void()> copy) {
  CHECK_MSG(!capture_, "a copy while a graph is captured");
  Push(std::move(copy));
}

Place StreamQueue::Record(std::function<void()> note) {
  if (capture_) return {this, 0, capture_, capture_->streams[this]};
  EnqueueCopy(std::move(note));
  return {this, end(), nullptr, {}};
}

void StreamQueue::WaitFor(const Place& place) {
  if (place.stream == nullptr) return;  // an event that was never recorded
  if (place.capture) {
    CHECK_MSG(!capture_ || capture_ == place.capture, "a wait for another capture");
    CHECK_MSG(place.capture->origin != nullptr, "a wait for a place of a capture that has ended");
    capture_ = place.capture;
    Capture::Seen& seen = capture_->streams[this];
    for (const auto& [stream, count] : place.seen) seen[stream] = std::max(seen[stream], count);
    return;
  }
  CHECK_MSG(!capture_, "a capture waits for work that is not part of it");
  Push([stream = place.stream, number = place.number] { stream->RunTo(number); });
}

void StreamQueue::BeginCapture() {
  CHECK(!capture_);
  capture_ = std::make_shared<Capture>();
  capture_->origin = this;
  capture_->streams[this];
}

std::optional<Launches> StreamQueue::EndCapture() {
  ++TheCounts().captured;
  const std::shared_ptr<Capture> capture = std::move(capture_);
  CHECK(capture->origin == this);
  const Capture::Seen& seen = capture->streams[this];
  bool joined = true;
  for (auto& [stream, of_stream] : capture->streams) {
    const auto at = seen.find(stream);
    joined = joined && of_stream[stream] <= (at == seen.end() ? 0 : at->second);
    stream->capture_.reset();
  }
  capture->origin = nullptr;
  if (!joined) return std::nullopt;
  return std::move(capture->launches);
}

uint64_t StreamQueue::end() const {
  const std::lock_guard lock(mutex_);
  return ran_ + waiting_.size();
}

uint64_t StreamQueue::ran() const {
  const std::lock_guard lock(mutex_);
  return ran_;
}

void StreamQueue::RunTo(uint64_t place) {
  std::unique_lock lock(mutex_);
  if (thread_.joinable()) return changed_.wait(lock, [&] { return ran_ >= place; });
  const OpenMemory open;
  while (ran_ < place) RunFront(lock);
}

void StreamQueue::RunOne() {
  std::unique_lock lock(mutex_);
  if (!thread_.joinable() && !waiting_.empty()) RunFront(lock);
}

void StreamQueue::Push(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void StreamQueue::RunFront(std::unique_lock<std::mutex>& lock) {
  CHECK(!waiting_.empty());
  const auto work = std::move(waiting_.front());  // its place stays until it has run
  lock.unlock();
  work();
  lock.lock();
  waiting_.pop_front();
  ++ran_;
}

void StreamQueue::RunAll() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const OpenMemory open;
    while (!waiting_.empty()) {
      RunFront(lock);
      changed_.notify_all();
    }
  }
}

size_t GraphsCaptured() { return TheCounts().captured; }
size_t KernelsEnqueued() { return TheCounts().enqueued; }
void SetEager(bool eager) { TheCounts().eager = eager; }
void EnqueueOn(void* stream, std::function<void()> work) {
  static_cast<StreamQueue*>(stream)->EnqueueKernel(std::move(work));
}

}  // namespace echelon::emulation
