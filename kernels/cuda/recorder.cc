#include "kernels/cuda/recorder.h"

#include <algorithm>

namespace echelon::cuda {

namespace {
// Buckets of rows times powers of two of units and pages, forward and head: some 20 are in use. A
// graph of 200 kernels takes some 100 KiB of device memory.
constexpr size_t kGraphsMax = 128;
}  // namespace

int64_t RepeatRows(int64_t rows) {
  if (rows > kRepeatRowsMax) return rows;
  if (rows > 8) return (rows + 7) / 8 * 8;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}

Recorder::~Recorder() {
  for (const Kept& kept : kept_) device_.runtime().FreeGraph(kept.graph);
}

void Recorder::BeginNotes() {
  CHECK(!recording_);
  recording_ = noting_ = true;
  key_ = 0;
}

void Recorder::Launch(const std::function<void()>& ops, const std::function<void()>& send) {
  noting_ = false;
  const uint64_t key = key_;
  auto found = std::ranges::find(kept_, key, &Kept::key);
  if (found == kept_.end() && !device_.failure()) {
    if (kept_.size() == kGraphsMax) DropOldest();
    Graph graph = nullptr;
    if (device_.Capture(ops, &graph)) {
      kept_.push_back({key, graph, 0});
      found = kept_.end() - 1;
    }
  }
  recording_ = false;
  if (device_.failure()) return;
  send();
  found->used = ++launches_;
  device_.LaunchGraph(found->graph);
}

void Recorder::DropOldest() {
  device_.Wait();  // it may be running
  const auto oldest = std::ranges::min_element(kept_, {}, &Kept::used);
  device_.runtime().FreeGraph(oldest->graph);
  kept_.erase(oldest);
}

}  // namespace echelon::cuda
