#include <deque>
#include <utility>

#include "worker/trace.h"

namespace echelon {

namespace {

class TracedComm : public Communicator {
 public:
  TracedComm(std::unique_ptr<Communicator> inner, Trace& trace)
      : inner_(std::move(inner)), trace_(trace) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int hosts() const override { return inner_->hosts(); }
  CommHandle AllReduceSum(float* data, int64_t count) override {
    return Post("all_reduce", count * static_cast<int64_t>(sizeof(float)),
                [&] { return inner_->AllReduceSum(data, count); });
  }
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) override {
    return Post("all_reduce", rows * cols * static_cast<int64_t>(sizeof(float)),
                [&] { return inner_->AllReduceRows(data, rows, cols); });
  }
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    return Post("all_gather", static_cast<int64_t>(bytes),
                [&] { return inner_->AllGather(send, recv, bytes); });
  }
  CommHandle Broadcast(void* data, size_t bytes, int root) override {
    return Post("broadcast", static_cast<int64_t>(bytes),
                [&] { return inner_->Broadcast(data, bytes, root); });
  }
  CommHandle Send(const void* data, size_t bytes, int to) override {
    return Post("send", static_cast<int64_t>(bytes), [&] { return inner_->Send(data, bytes, to); });
  }
  CommHandle Recv(void* data, size_t bytes, int from) override {
    return Post("recv", static_cast<int64_t>(bytes),
                [&] { return inner_->Recv(data, bytes, from); });
  }

  void Wait(CommHandle handle) override {
    const int64_t begin_ns = Trace::NowNs();
    inner_->Wait(handle);
    Complete(handle, begin_ns);
  }
  // The flight ends where its first rows are there: what comes after them is waited for apart.
  SumRows NextRows(CommHandle handle) override {
    const int64_t begin_ns = Trace::NowNs();
    const SumRows rows = inner_->NextRows(handle);
    Complete(handle, begin_ns);
    return rows;
  }
  void SetIdle(std::function<bool()> idle) override { inner_->SetIdle(std::move(idle)); }
  void Poll() override { inner_->Poll(); }
  bool MoveOn() override { return inner_->MoveOn(); }
  std::unique_ptr<Communicator> Split(int color, int key) override {
    return MakeTracedComm(inner_->Split(color, key), trace_);
  }
  CommStats TakeStats() override { return inner_->TakeStats(); }

 private:
  struct Posted {
    uint64_t ticket;
    TraceEvent event;
  };

  void Complete(CommHandle handle, int64_t begin_ns) {
    if (posted_.empty() || posted_.front().ticket > handle.ticket) return;
    const int64_t end_ns = Trace::NowNs();
    TraceEvent wait;
    // Waiting for a handle completes all that was issued before it.
    for (; !posted_.empty() && posted_.front().ticket <= handle.ticket; posted_.pop_front()) {
      TraceEvent& flight = posted_.front().event;
      flight.end_ns = end_ns;
      trace_.Add(flight);
      wait = flight;
    }
    wait.track = TraceTrack::kWait;
    wait.begin_ns = begin_ns;
    trace_.Add(wait);
  }

  template <typename Operation>
  CommHandle Post(const char* name, int64_t bytes, Operation operation) {
    TraceEvent event;
    event.name = name;
    event.track = TraceTrack::kInFlight;
    event.amount = bytes;
    event.begin_ns = Trace::NowNs();
    const CommHandle handle = operation();
    if (handle.ticket != 0 && inner_->size() > 1) posted_.push_back({handle.ticket, event});
    return handle;
  }

  const std::unique_ptr<Communicator> inner_;
  Trace& trace_;
  std::deque<Posted> posted_;  // tickets ascend
};

}  // namespace

std::unique_ptr<Communicator> MakeTracedComm(std::unique_ptr<Communicator> inner, Trace& trace) {
  return std::make_unique<TracedComm>(std::move(inner), trace);
}

}  // namespace echelon
