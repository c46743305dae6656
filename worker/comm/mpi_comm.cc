#include "worker/comm/mpi_comm.h"

#include <mpi.h>
#include <sched.h>

#include <chrono>
#include <climits>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/parallel_layout.h"
#include "common/strings.h"
#include "worker/comm/backoff.h"

namespace echelon {

namespace {

// Message tags. Messages with one tag between two ranks are matched in the order they were sent, so
// operations of one kind, issued in the same order everywhere, find their own.
constexpr int kTagCollective = 1;
constexpr int kTagSecondShot = 2;  // sent when the first shot is in: its own order, its own tag
constexpr int kTagPoint = 3;

double NowSeconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

int AsCount(size_t bytes) {
  CHECK_MSG(bytes <= INT_MAX, "a message of more than 2 GiB");
  return static_cast<int>(bytes);
}

// One issued operation: its outstanding requests, and for sums what to add when they are done.
struct Operation {
  uint64_t ticket = 0;
  std::vector<MPI_Request> requests;
  size_t open = 0;        // requests not yet complete
  float* data = nullptr;  // all-reduce: the caller's buffer
  int64_t count = 0;
  Range slice;                  // of data, that this rank sums: everything, or its own part
  std::vector<float> partials;  // (size, slice): the others' partials; own row unused
  enum Phase { kPlain, kOneShot, kFirstShot, kSecondShot } phase = kPlain;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int64_t spin_ns) : comm_(comm), spin_ns_(spin_ns) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    one_shot_bytes_max_ = OneShotBytesMax(size_);
  }
  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  CommHandle AllReduceSum(float* data, int64_t count) override;
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override;
  CommHandle Broadcast(void* data, size_t bytes, int root) override;
  CommHandle Send(const void* data, size_t bytes, int to) override;
  CommHandle Recv(void* data, size_t bytes, int from) override;

  void Wait(CommHandle handle) override;
  void Poll() override;
  std::unique_ptr<Communicator> Split(int color, int key) override;
  CommStats TakeStats() override { return std::exchange(stats_, CommStats{}); }

 private:
  Operation& Issue();
  CommHandle Issued(Operation& operation);
  void PostSend(Operation& operation, const void* data, size_t bytes, int to, int tag);
  void PostRecv(Operation& operation, void* data, size_t bytes, int from, int tag);
  Range SliceOf(int64_t count, int rank) const { return SplitEvenly(count, size_, rank); }
  void PostAllReduce(Operation& operation);
  void PostSecondShot(Operation& operation);
  void SumSlice(Operation& operation) const;
  bool TestRequests(Operation& operation);
  void Advance();
  // The caller computed until `now` with operations in flight; alone, nothing was ever sent.
  void CountHidden(double now) {
    if (size_ > 1) stats_.hidden_seconds += now - in_flight_since_;
  }

  MPI_Comm comm_;
  const int64_t spin_ns_;
  int rank_ = 0;
  int size_ = 1;
  int64_t one_shot_bytes_max_ = 0;
  uint64_t last_ticket_ = 0;
  std::deque<Operation> queue_;            // issued, not complete; ascending tickets
  std::vector<std::vector<float>> spare_;  // buffers of finished sums, used again
  std::vector<int> indices_;               // scratch of MPI_Testsome
  double in_flight_since_ = 0.0;           // the caller computes since, with operations in flight
  CommStats stats_;
};

Operation& MpiCommunicator::Issue() {
  if (queue_.empty()) in_flight_since_ = NowSeconds();
  Operation& operation = queue_.emplace_back();
  operation.ticket = ++last_ticket_;
  ++stats_.operations;
  return operation;
}

CommHandle MpiCommunicator::Issued(Operation& operation) {
  operation.open = operation.requests.size();
  return {operation.ticket};
}

void MpiCommunicator::PostSend(Operation& operation, const void* data, size_t bytes, int to,
                               int tag) {
  MPI_Request& request = operation.requests.emplace_back(MPI_REQUEST_NULL);
  MPI_Isend(data, AsCount(bytes), MPI_BYTE, to, tag, comm_, &request);
  stats_.bytes_sent += bytes;
}

void MpiCommunicator::PostRecv(Operation& operation, void* data, size_t bytes, int from, int tag) {
  MPI_Request& request = operation.requests.emplace_back(MPI_REQUEST_NULL);
  MPI_Irecv(data, AsCount(bytes), MPI_BYTE, from, tag, comm_, &request);
}

CommHandle MpiCommunicator::AllReduceSum(float* data, int64_t count) {
  Operation& operation = Issue();
  operation.data = data;
  operation.count = count;
  if (size_ > 1 && count > 0) PostAllReduce(operation);
  return Issued(operation);
}

void MpiCommunicator::PostAllReduce(Operation& operation) {
  const bool one_shot =
      operation.count * static_cast<int64_t>(sizeof(float)) <= one_shot_bytes_max_;
  operation.phase = one_shot ? Operation::kOneShot : Operation::kFirstShot;
  operation.slice = one_shot ? Range{0, operation.count} : SliceOf(operation.count, rank_);
  const int64_t own = operation.slice.size();
  if (!spare_.empty()) {
    operation.partials = std::move(spare_.back());
    spare_.pop_back();
  }
  operation.partials.resize(own * size_);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    PostRecv(operation, operation.partials.data() + peer * own, own * sizeof(float), peer,
             kTagCollective);
  }
  // Starting behind one's own rank, so that the ranks do not all send to rank 0 first.
  for (int i = 1; i < size_; ++i) {
    const int peer = (rank_ + i) % size_;
    const Range theirs = one_shot ? operation.slice : SliceOf(operation.count, peer);
    PostSend(operation, operation.data + theirs.begin, theirs.size() * sizeof(float), peer,
             kTagCollective);
  }
}

// data[slice] = partial of rank 0 + partial of rank 1 + ...; this rank's own lies in data.
void MpiCommunicator::SumSlice(Operation& operation) const {
  constexpr int64_t kBlock = 1024;  // floats: 4 KiB, stays in the first-level cache
  float sum[kBlock];
  const int64_t own = operation.slice.size();
  float* data = operation.data + operation.slice.begin;
  for (int64_t begin = 0; begin < own; begin += kBlock) {
    const int64_t n = std::min(kBlock, own - begin);
    for (int rank = 0; rank < size_; ++rank) {
      const float* partial =
          rank == rank_ ? data + begin : operation.partials.data() + rank * own + begin;
      if (rank == 0) {
        std::memcpy(sum, partial, n * sizeof(float));
      } else {
        for (int64_t i = 0; i < n; ++i) sum[i] += partial[i];
      }
    }
    std::memcpy(data + begin, sum, n * sizeof(float));
  }
}

void MpiCommunicator::PostSecondShot(Operation& operation) {
  operation.phase = Operation::kSecondShot;
  operation.requests.clear();
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const Range theirs = SliceOf(operation.count, peer);
    PostRecv(operation, operation.data + theirs.begin, theirs.size() * sizeof(float), peer,
             kTagSecondShot);
  }
  for (int i = 1; i < size_; ++i) {
    PostSend(operation, operation.data + operation.slice.begin,
             operation.slice.size() * sizeof(float), (rank_ + i) % size_, kTagSecondShot);
  }
  operation.open = operation.requests.size();
}

CommHandle MpiCommunicator::AllGather(const void* send, void* recv, size_t bytes) {
  Operation& operation = Issue();
  char* out = static_cast<char*>(recv);
  if (out + rank_ * bytes != send) std::memmove(out + rank_ * bytes, send, bytes);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_) PostRecv(operation, out + peer * bytes, bytes, peer, kTagCollective);
  }
  for (int i = 1; i < size_; ++i) {
    PostSend(operation, out + rank_ * bytes, bytes, (rank_ + i) % size_, kTagCollective);
  }
  return Issued(operation);
}

CommHandle MpiCommunicator::Broadcast(void* data, size_t bytes, int root) {
  Operation& operation = Issue();
  if (rank_ != root) {
    PostRecv(operation, data, bytes, root, kTagCollective);
  } else {
    for (int i = 1; i < size_; ++i) {
      PostSend(operation, data, bytes, (rank_ + i) % size_, kTagCollective);
    }
  }
  return Issued(operation);
}

CommHandle MpiCommunicator::Send(const void* data, size_t bytes, int to) {
  Operation& operation = Issue();
  PostSend(operation, data, bytes, to, kTagPoint);
  return Issued(operation);
}

CommHandle MpiCommunicator::Recv(void* data, size_t bytes, int from) {
  Operation& operation = Issue();
  PostRecv(operation, data, bytes, from, kTagPoint);
  return Issued(operation);
}

bool MpiCommunicator::TestRequests(Operation& operation) {
  if (operation.open > 0) {
    indices_.resize(operation.requests.size());
    int done = 0;
    MPI_Testsome(static_cast<int>(operation.requests.size()), operation.requests.data(), &done,
                 indices_.data(), MPI_STATUSES_IGNORE);
    if (done != MPI_UNDEFINED) operation.open -= done;
  }
  return operation.open == 0;
}

// Takes completed operations off the front, and moves first shots on in the order of issue (their
// second shots share a tag). Sums happen here, so a caller's buffer changes only in Wait and Poll.
void MpiCommunicator::Advance() {
  bool second_shot_may_start = true;
  for (Operation& operation : queue_) {
    const bool done = TestRequests(operation);
    if (operation.phase == Operation::kFirstShot) {
      if (done && second_shot_may_start) {
        SumSlice(operation);
        PostSecondShot(operation);
      } else {
        second_shot_may_start = false;
      }
    }
  }
  while (!queue_.empty() && queue_.front().open == 0) {
    Operation& front = queue_.front();
    if (front.phase == Operation::kFirstShot) break;
    if (front.phase == Operation::kOneShot) SumSlice(front);
    if (!front.partials.empty()) spare_.push_back(std::move(front.partials));
    queue_.pop_front();
  }
}

void MpiCommunicator::Wait(CommHandle handle) {
  if (queue_.empty() || queue_.front().ticket > handle.ticket) return;
  const double begin = NowSeconds();
  CountHidden(begin);
  Backoff backoff(spin_ns_);
  for (;;) {
    Advance();
    if (queue_.empty() || queue_.front().ticket > handle.ticket) break;
    backoff.Pause();
  }
  in_flight_since_ = NowSeconds();
  stats_.exposed_seconds += in_flight_since_ - begin;
}

void MpiCommunicator::Poll() {
  if (queue_.empty()) return;
  Advance();
  if (queue_.empty()) CountHidden(NowSeconds());
}

std::unique_ptr<Communicator> MpiCommunicator::Split(int color, int key) {
  MPI_Comm part;
  MPI_Comm_split(comm_, color, key, &part);
  return std::make_unique<MpiCommunicator>(part, spin_ns_);
}

}  // namespace

int64_t OneShotBytesMax(int size) {
  constexpr int64_t kLatencyTimesBandwidth = 64 << 10;
  if (size <= 2) return INT64_MAX;
  return kLatencyTimesBandwidth * size / ((size - 1) * (size - 2));
}

Result<std::unique_ptr<MpiEnvironment>> MpiEnvironment::Start() {
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    return InternalError("MPI_Init_thread failed: see Open MPI's message above");
  }
  std::unique_ptr<MpiEnvironment> environment(new MpiEnvironment);
  if (provided < MPI_THREAD_FUNNELED) {
    return Unsupported("this MPI was built without threads (MPI_THREAD_FUNNELED)");
  }
  MPI_Comm host;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  MPI_Comm_size(host, &environment->ranks_on_this_host_);
  MPI_Comm_free(&host);
  cpu_set_t cores;
  const bool known = sched_getaffinity(0, sizeof(cores), &cores) == 0;
  const bool own_core = known && environment->ranks_on_this_host_ <= CPU_COUNT(&cores);
  environment->spin_ns_ = own_core ? kSpinNs : kSpinSharedNs;
  return environment;
}

MpiEnvironment::~MpiEnvironment() { MPI_Finalize(); }

void MpiEnvironment::Progress() const {
  int found = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &found, MPI_STATUS_IGNORE);
}

std::unique_ptr<Communicator> MpiEnvironment::World() const {
  MPI_Comm world;
  MPI_Comm_dup(MPI_COMM_WORLD, &world);
  return std::make_unique<MpiCommunicator>(world, spin_ns_);
}

}  // namespace echelon
