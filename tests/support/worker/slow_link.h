#pragma once
// SlowLink: a communicator whose all-reduces take time, on a clock that a test turns: a wire of so
// many bytes a second that carries one message after the other, each arriving a latency after its
// end. The values are those of the communicator inside. The groups that are split off have a wire
// and a count of their own. The thread and lifetime of the communicator inside; clock and options
// outlive it.

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "common/clock.h"
#include "worker/comm/communicator.h"

namespace echelon::testing {

struct SlowLinkOptions {
  int hosts = 2;
  double us_per_byte = 0.0;
  int64_t latency_us = 0;
};

class SlowLink final : public Communicator {
 public:
  // `all_reduces`: counts those issued by groups of several ranks.
  SlowLink(std::unique_ptr<Communicator> inner, const SlowLinkOptions& options, ManualClock& clock,
           int& all_reduces)
      : inner_(std::move(inner)), options_(options), clock_(clock), all_reduces_(all_reduces) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int hosts() const override { return std::min(size(), options_.hosts); }
  CommHandle AllReduceSum(float* data, int64_t count) override {
    return Travels(inner_->AllReduceSum(data, count), count);
  }
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) override {
    return Travels(inner_->AllReduceRows(data, rows, cols), rows * cols);
  }
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    return inner_->AllGather(send, recv, bytes);
  }
  CommHandle Broadcast(void* data, size_t bytes, int root) override {
    return inner_->Broadcast(data, bytes, root);
  }
  CommHandle Send(const void* data, size_t bytes, int to) override {
    return inner_->Send(data, bytes, to);
  }
  CommHandle Recv(void* data, size_t bytes, int from) override {
    return inner_->Recv(data, bytes, from);
  }
  void Wait(CommHandle handle) override {
    inner_->Wait(handle);
    Arrive(handle);
  }
  SumRows NextRows(CommHandle handle) override {
    Arrive(handle);
    return inner_->NextRows(handle);
  }
  void Poll() override { inner_->Poll(); }
  bool MoveOn() override { return inner_->MoveOn(); }
  std::unique_ptr<Communicator> Split(int color, int key) override {
    return std::make_unique<SlowLink>(inner_->Split(color, key), options_, clock_, all_reduces_);
  }
  CommStats TakeStats() override { return inner_->TakeStats(); }

 private:
  struct Arrival {
    CommHandle handle;
    int64_t us;
  };
  CommHandle Travels(CommHandle handle, int64_t count) {
    if (size() == 1) return handle;
    ++all_reduces_;
    const double bytes = static_cast<double>(count) * sizeof(float);
    sent_us_ =
        std::max(sent_us_, static_cast<double>(clock_.NowUs())) + bytes * options_.us_per_byte;
    arrivals_.push_back({handle, static_cast<int64_t>(sent_us_) + options_.latency_us});
    return handle;
  }
  void Arrive(CommHandle handle) {
    for (; !arrivals_.empty() && arrivals_.front().handle.ticket <= handle.ticket;
         arrivals_.pop_front()) {
      clock_.AdvanceUs(std::max<int64_t>(0, arrivals_.front().us - clock_.NowUs()));
    }
  }

  const std::unique_ptr<Communicator> inner_;
  const SlowLinkOptions& options_;
  ManualClock& clock_;
  int& all_reduces_;
  double sent_us_ = 0.0;  // when the wire is free
  std::deque<Arrival> arrivals_;
};

}  // namespace echelon::testing
