#pragma once
// PlayedLink: a DeviceLink over host memory whose queue has always run. For the code above links,
// where no device's order is in question (tests/cuda has that).

#include <utility>

#include "common/check.h"
#include "kernels/device_link.h"

namespace echelon::testing {

class PlayedLink final : public DeviceLink {
 public:
  explicit PlayedLink(DeviceCard card = {}) : card_(std::move(card)) {}
  const DeviceCard& card() const override { return card_; }

  uint64_t Enqueue(std::span<const uint64_t>,
                   const std::function<Status(void* stream)>& launch) override {
    const Status launched = launch(nullptr);
    CHECK_MSG(launched.ok(), launched.error().message);
    return ++place_;
  }
  uint64_t Sum(std::span<const float* const> terms, int64_t count, float* out) override {
    CHECK(!terms.empty() && terms.size() <= kTermsMax);
    for (int64_t i = 0; i < count; ++i) {
      float sum = terms[0][i];
      for (size_t t = 1; t < terms.size(); ++t) sum += terms[t][i];
      out[i] = sum;
    }
    return ++place_;
  }
  void Join(uint64_t place) override { CHECK(0 < place && place <= place_); }
  PeerHandle Share(DeviceBuffer&) override { return {}; }
  Result<std::unique_ptr<DeviceBuffer>> Map(const PeerHandle&) override {
    return Unsupported("played");
  }
  Result<std::unique_ptr<Mailboxes>> NewMailboxes(const MailboxOptions&) override {
    return Unsupported("this device plays no mailboxes");
  }
  LinkTimes TakeTimes() override { return {0.25, 0.125}; }

 private:
  const DeviceCard card_;
  uint64_t place_ = 0;
};

}  // namespace echelon::testing
