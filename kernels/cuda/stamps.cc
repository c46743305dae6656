#include "kernels/cuda/stamps.h"

#include <chrono>

#include "common/check.h"

namespace echelon::cuda {

namespace {
int64_t NowNs() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}
}  // namespace

Stamps::~Stamps() {
  free_.insert(free_.end(), put_.begin(), put_.end());
  for (const Event event : free_) {
    if (event != nullptr) device_.runtime().FreeEvent(event);
  }
}

Event Stamps::TakeEvent() {
  if (free_.empty()) return device_.NewEvent(true);
  const Event event = free_.back();
  free_.pop_back();
  return event;
}

uint64_t Stamps::Put(Stream stream) {
  const Event event = TakeEvent();
  if (!device_.failure()) device_.Note(device_.runtime().Record(event, stream));
  put_.push_back(event);
  return first_ + settled_.size() + put_.size() - 1;
}

void Stamps::Settle() {
  if (put_.empty()) return;
  const Event anchor = TakeEvent();
  const int64_t before_ns = NowNs();
  device_.Record(anchor);
  device_.Wait();
  const int64_t anchor_ns = before_ns + (NowNs() - before_ns) / 2;
  for (const Event event : put_) {
    float milliseconds = 0.0f;
    if (!device_.failure()) {
      device_.Note(device_.runtime().Milliseconds(event, anchor, &milliseconds));
    }
    settled_.push_back(device_.failure() ? 0
                                         : anchor_ns - static_cast<int64_t>(1e6 * milliseconds));
    free_.push_back(event);
  }
  free_.push_back(anchor);
  untaken_ += put_.size();
  put_.clear();
}

int64_t Stamps::Take(uint64_t stamp) {
  CHECK(first_ <= stamp && stamp - first_ < settled_.size());
  const int64_t ns = settled_[stamp - first_];
  if (--untaken_ == 0) {
    first_ += settled_.size();
    settled_.clear();
  }
  return ns;
}

}  // namespace echelon::cuda
