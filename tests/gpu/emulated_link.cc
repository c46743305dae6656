#include "tests/gpu/emulated_link.h"

#include <algorithm>

namespace echelon::bench {

class EmulatedLink::Wire : public DeviceWire {
 public:
  Wire(int ranks, LinkMeter* meter) : ranks_(ranks), meter_(meter) {}

  Status AllGather(const void* send, void* recv, size_t bytes, void* stream) override {
    DelayOn(stream, meter_, bytes * static_cast<size_t>(ranks_ - 1));
    for (int rank = 0; rank < ranks_; ++rank) {
      char* const to = static_cast<char*>(recv) + static_cast<size_t>(rank) * bytes;
      if (to != send) CopyOn(stream, to, send, bytes);
    }
    return {};
  }
  Status Pass(std::span<const OutgoingMessage> sends, std::span<const IncomingMessage> recvs,
              void* stream) override {
    size_t out = 0, in = 0;
    for (const OutgoingMessage& send : sends) out += send.bytes;
    for (const IncomingMessage& recv : recvs) in += recv.bytes;
    DelayOn(stream, meter_, std::max(out, in));
    for (size_t i = 0; i < std::min(sends.size(), recvs.size()); ++i) {
      CopyOn(stream, recvs[i].data, sends[i].data, std::min(sends[i].bytes, recvs[i].bytes));
    }
    return {};
  }
  Status Check() const override { return {}; }

 private:
  const int ranks_;
  LinkMeter* const meter_;
};

WireFactory EmulatedLink::factory() {
  return [this](Communicator& host, DeviceLink&) -> Result<std::unique_ptr<DeviceWire>> {
    ASSIGN_OR_RETURN(auto memory, backend_.Allocate(sizeof(LinkMeter)));
    const LinkMeter none;
    backend_.Upload(&none, memory->data(), sizeof(none));
    backend_.Synchronize();
    auto* const meter = static_cast<LinkMeter*>(memory->data());
    meters_.push_back(std::move(memory));
    return std::unique_ptr<DeviceWire>(new Wire(host.size(), meter));
  };
}

void EmulatedLink::Set(const LinkSpeed& speed) {
  LinkMeter meter;
  meter.latency_ns = static_cast<uint64_t>(1e9 * speed.latency_s);
  meter.femtoseconds_per_byte = static_cast<uint64_t>(1e15 * speed.seconds_per_byte);
  for (const auto& memory : meters_) backend_.Upload(&meter, memory->data(), sizeof(meter));
  backend_.Synchronize();
}

LinkTraffic EmulatedLink::Traffic() {
  std::vector<LinkMeter> meters(meters_.size());
  for (size_t i = 0; i < meters.size(); ++i) {
    backend_.Download(meters_[i]->data(), &meters[i], sizeof(LinkMeter));
  }
  backend_.Synchronize();
  LinkTraffic all;
  for (const LinkMeter& meter : meters) {
    all.operations += static_cast<double>(meter.operations);
    all.bytes += static_cast<double>(meter.bytes);
    all.delayed_s += 1e-9 * static_cast<double>(meter.delayed_ns);
  }
  return all;
}

}  // namespace echelon::bench
