#include <algorithm>
#include <deque>
#include <utility>

#include "worker/trace.h"

namespace echelon {

namespace {

constexpr int64_t kWaitNsMin = 1000;

class TracedComm : public Communicator {
 public:
  TracedComm(std::unique_ptr<Communicator> inner, Trace& trace)
      : inner_(std::move(inner)), trace_(trace) {
    inner_->SetArrived([this](CommHandle handle) { NoteArrival(handle); });
  }

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
    const int64_t end_ns = Trace::NowNs();
    if (posted_.empty() || posted_.front().ticket > handle.ticket) return;
    AddWait(Land(handle, end_ns), begin_ns, end_ns);
  }
  // Rows come in many pieces: a wait is told the first time, and where it took its time.
  SumRows NextRows(CommHandle handle) override {
    const int64_t begin_ns = Trace::NowNs();
    const SumRows rows = inner_->NextRows(handle);
    const int64_t end_ns = Trace::NowNs();
    const auto posted = std::find_if(posted_.begin(), posted_.end(), [&](const Posted& one) {
      return one.ticket == handle.ticket;
    });
    if (posted == posted_.end()) return rows;
    if (!std::exchange(posted->waited, true) || end_ns - begin_ns >= kWaitNsMin) {
      AddWait(posted->event, begin_ns, end_ns);
    }
    if (rows.empty()) Land(handle, end_ns);
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
    bool waited = false;
  };

  // What was issued up to `handle` has arrived, at `end_ns` if the communicator did not tell when.
  // The last of it.
  TraceEvent Land(CommHandle handle, int64_t end_ns) {
    TraceEvent last;
    for (; !posted_.empty() && posted_.front().ticket <= handle.ticket; posted_.pop_front()) {
      last = posted_.front().event;
      if (last.end_ns == 0) last.end_ns = end_ns;
      trace_.Add(last);
    }
    return last;
  }

  void AddWait(TraceEvent wait, int64_t begin_ns, int64_t end_ns) {
    wait.track = TraceTrack::kWait;
    wait.begin_ns = begin_ns;
    wait.end_ns = end_ns;
    trace_.Add(wait);
  }

  template <typename Operation>
  CommHandle Post(const char* name, int64_t bytes, Operation operation) {
    TraceEvent event;
    event.name = name;
    event.track = TraceTrack::kInFlight;
    event.amount = bytes;
    event.layer = trace_.layer();
    event.begin_ns = Trace::NowNs();
    const CommHandle handle = operation();
    if (handle.ticket == 0 || inner_->size() == 1) return handle;
    event.message = trace_.NewMessage();
    posted_.push_back({handle.ticket, event});
    return handle;
  }

  void NoteArrival(CommHandle handle) {
    for (Posted& posted : posted_) {
      if (posted.ticket == handle.ticket) posted.event.end_ns = Trace::NowNs();
    }
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
