#pragma once
// CudaLink: DeviceLink over a stream of its own. Events order it against the backend's stream: one
// that every operation here waits for, and one of each place for Join. In a capture they fork this
// stream off the backend's and join it again, so that one graph holds both. One thread, the
// backend's.

#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/recorder.h"
#include "kernels/device_link.h"

namespace echelon::cuda {

class CudaLink : public DeviceLink {
 public:
  // `links` holds this object while it lives. `joined`: memory may have changed under the backend.
  static Result<std::unique_ptr<DeviceLink>> Create(Device& device, Recorder& recorder,
                                                    std::vector<CudaLink*>& links, bool timed,
                                                    std::function<void()> joined);
  ~CudaLink() override;

  const DeviceCard& card() const override { return card_; }
  uint64_t Enqueue(std::span<const uint64_t> facts,
                   const std::function<Status(void* stream)>& launch) override;
  uint64_t Sum(std::span<const float* const> terms, int64_t count, float* out) override;
  void Join(uint64_t place) override;
  void JoinAll() { Join(placed_); }
  PeerHandle Share(DeviceBuffer& memory) override;
  Result<std::unique_ptr<DeviceBuffer>> Map(const PeerHandle& handle) override;
  Result<std::unique_ptr<Mailboxes>> NewMailboxes(const MailboxOptions& options) override;
  LinkTimes TakeTimes() override;
  Device& device() { return device_; }

 private:
  // From one event to another of the same stream.
  struct Span {
    Event from = nullptr, to = nullptr;
    double LinkTimes::*sum = nullptr;
  };
  // Places whose events are kept, at most: some four for every layer of a step are enough. An older
  // one is joined by way of the oldest kept, which is behind it.
  static constexpr uint64_t kPlacesMax = 256;
  // Spans that wait for TakeTimes, at most, before those that have happened are summed.
  static constexpr size_t kSpansMax = 1024;

  CudaLink(Device& device, Recorder& recorder, std::vector<CudaLink*>& links, bool timed,
           std::function<void()> joined);
  void Run(uint64_t place, const std::function<Status(void* stream)>& launch);
  Event PlaceEvent(uint64_t place) const { return places_[place % kPlacesMax]; }
  // `work` enqueues on `stream`; its time counts where this link is timed.
  void Timed(Stream stream, double LinkTimes::*sum, const std::function<void()>& work);
  void SumSpans();
  Event TakeEvent();

  Device& device_;
  Recorder& recorder_;
  std::vector<CudaLink*>& links_;
  const bool timed_;
  const std::function<void()> on_join_;
  DeviceCard card_;
  Stream stream_ = nullptr;
  Event fork_ = nullptr;
  std::array<Event, kPlacesMax> places_ = {};
  uint64_t placed_ = 0, joined_ = 0;
  std::vector<Span> spans_;
  std::vector<Event> free_events_;
  LinkTimes times_;
};

}  // namespace echelon::cuda
