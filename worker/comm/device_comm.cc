#include "worker/comm/device_comm.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

namespace {

// Begins the facts of what is enqueued (Backend::Repeat).
enum class Fact : uint64_t { kGather, kPass };

uint64_t AddressOf(const void* memory) { return reinterpret_cast<uint64_t>(memory); }

}  // namespace

Result<std::unique_ptr<Communicator>> DeviceCommunicator::Make(std::unique_ptr<Communicator> host,
                                                               const DeviceCommOptions& options) {
  DeviceLine line;
  if (host->size() > 1) {
    ASSIGN_OR_RETURN(line, options.connect(*host));
  }
  return Make(std::move(host), options, std::move(line));
}

Result<std::unique_ptr<Communicator>> DeviceCommunicator::Make(std::unique_ptr<Communicator> host,
                                                               const DeviceCommOptions& options,
                                                               DeviceLine line) {
  CHECK(!host->on_stream());
  std::unique_ptr<DeviceCommunicator> made(
      new DeviceCommunicator(std::move(host), options, std::move(line)));
  if (made->size() > 1) RETURN_IF_ERROR(made->Allocate());
  return std::unique_ptr<Communicator>(std::move(made));
}

Status DeviceCommunicator::Allocate() {
  ASSIGN_OR_RETURN(scratch_, options_.backend->Allocate(options_.scratch_bytes));
  for (auto& memory : handed_out_) {
    ASSIGN_OR_RETURN(memory, options_.backend->Allocate(options_.one_shot_bytes_max *
                                                        static_cast<size_t>(size())));
  }
  return {};
}

std::unique_ptr<Communicator> DeviceCommunicator::Split(int color, int key) {
  BeginMessages();
  auto made = Make(host_->Split(color, key), options_);
  CHECK_MSG(made.ok(), made.error().message);
  return *std::move(made);
}

void DeviceCommunicator::Restart() {
  BeginMessages();
  CHECK(rows_.empty());
  turn_ = 0;
}

CommHandle DeviceCommunicator::Issued(uint64_t place) {
  pending_.push_back({++last_ticket_, place});
  ++stats_.operations;
  return {last_ticket_};
}

uint64_t DeviceCommunicator::Gather(const void* send, void* recv, size_t bytes) {
  stats_.bytes_sent += bytes * static_cast<size_t>(size() - 1);
  const uint64_t facts[] = {static_cast<uint64_t>(Fact::kGather), AddressOf(this), AddressOf(send),
                            AddressOf(recv), bytes};
  return line_.link->Enqueue(
      facts, [=, this](void* stream) { return line_.wire->AllGather(send, recv, bytes, stream); });
}

uint64_t DeviceCommunicator::Pass(std::vector<OutgoingMessage> sends,
                                  std::vector<IncomingMessage> recvs) {
  std::vector<uint64_t> facts = {static_cast<uint64_t>(Fact::kPass), AddressOf(this), sends.size()};
  for (const OutgoingMessage& send : sends) {
    stats_.bytes_sent += send.bytes;
    facts.insert(facts.end(), {AddressOf(send.data), send.bytes, static_cast<uint64_t>(send.to)});
  }
  for (const IncomingMessage& recv : recvs) {
    facts.insert(facts.end(), {AddressOf(recv.data), recv.bytes, static_cast<uint64_t>(recv.from)});
  }
  return line_.link->Enqueue(facts,
                             [&](void* stream) { return line_.wire->Pass(sends, recvs, stream); });
}

std::vector<const float*> DeviceCommunicator::Terms(const float* gathered, int64_t count) const {
  std::vector<const float*> terms;
  for (int rank = 0; rank < size(); ++rank) terms.push_back(gathered + rank * count);
  return terms;
}

bool DeviceCommunicator::GoesWhole(int64_t count) const {
  return static_cast<size_t>(count) * sizeof(float) <= options_.one_shot_bytes_max;
}

// terms[0] + terms[1] + ... however many; more than a link adds at once come in several sums, of
// which `out` has the last, and is no term then.
uint64_t DeviceCommunicator::Add(std::span<const float* const> terms, int64_t count, float* out) {
  const auto first = std::min(terms.size(), kTermsMax);
  uint64_t place = line_.link->Sum(terms.first(first), count, out);
  for (terms = terms.subspan(first); !terms.empty();) {
    std::vector<const float*> some = {out};
    const auto more = std::min(terms.size(), kTermsMax - 1);
    some.insert(some.end(), terms.begin(), terms.begin() + static_cast<ptrdiff_t>(more));
    place = line_.link->Sum(some, count, out);
    terms = terms.subspan(more);
  }
  return place;
}

// One shot where it fits, or two would move no less: each of two ranks receives as much either way.
// Slices are even, as rows of a model are.
uint64_t DeviceCommunicator::SumIntoData(float* data, int64_t count) {
  const bool whole = GoesWhole(count) || size() == 2 || count % size() != 0 || !AddsAtOnce();
  const auto room = static_cast<int64_t>(options_.scratch_bytes / sizeof(float)) / size();
  const int64_t piece = whole ? room : room * size();
  CHECK(piece > 0);
  uint64_t place = 0;
  for (int64_t begin = 0; begin < count; begin += piece) {
    const int64_t now = std::min(piece, count - begin);
    place = whole ? SumWhole(data + begin, now) : SumSlices(data + begin, now);
  }
  return place;
}

uint64_t DeviceCommunicator::SumWhole(float* data, int64_t count) {
  auto* const gathered = static_cast<float*>(scratch_->data());
  Gather(data, gathered, static_cast<size_t>(count) * sizeof(float));
  return Add(Terms(gathered, count), count, data);
}

uint64_t DeviceCommunicator::SumSlices(float* data, int64_t count) {
  const int64_t slice = count / size();
  const size_t bytes = static_cast<size_t>(slice) * sizeof(float);
  auto* const gathered = static_cast<float*>(scratch_->data());
  std::vector<const float*> terms = Terms(gathered, slice);
  float* const own = data + rank() * slice;
  terms[rank()] = own;
  std::vector<OutgoingMessage> sends;
  std::vector<IncomingMessage> recvs;
  for (int step = 1; step < size(); ++step) {
    const int to = (rank() + step) % size(), from = (rank() - step + size()) % size();
    sends.push_back({data + to * slice, bytes, to});
    recvs.push_back({gathered + from * slice, bytes, from});
  }
  Pass(std::move(sends), std::move(recvs));
  line_.link->Sum(terms, slice, own);
  return Gather(own, data, bytes);
}

CommHandle DeviceCommunicator::AllReduceSum(float* data, int64_t count) {
  CHECK(count >= 0);
  BeginMessages();
  return Issued(line_.link && count > 0 ? SumIntoData(data, count) : 0);
}

CommHandle DeviceCommunicator::AllReduceRows(float* data, int64_t rows, int64_t cols) {
  CHECK(rows >= 0 && cols >= 0);
  BeginMessages();
  const int64_t count = rows * cols;
  if (count == 0) return Issued(0);
  std::vector<const float*> terms = {data};
  uint64_t place = 0;
  if (line_.link && GoesWhole(count) && AddsAtOnce()) {
    auto* const gathered = static_cast<float*>(handed_out_[turn_]->data());
    const bool in_use = std::any_of(rows_.begin(), rows_.end(), [&](const Rows& sum) {
      return !sum.is_sum() && sum.terms[0] == gathered;
    });
    CHECK(!in_use);
    turn_ = (turn_ + 1) % kRowsInFlightMax;
    place = Gather(data, gathered, static_cast<size_t>(count) * sizeof(float));
    terms = Terms(gathered, count);
  } else if (line_.link) {
    place = SumIntoData(data, count);
  }
  const CommHandle handle = Issued(place);
  rows_.push_back({handle.ticket, data, rows, cols, std::move(terms)});
  return handle;
}

CommHandle DeviceCommunicator::AllGather(const void* send, void* recv, size_t bytes) {
  BeginMessages();
  if (bytes == 0) return Issued(0);
  if (line_.link) return Issued(Gather(send, recv, bytes));
  if (send != recv) options_.backend->Copy(send, recv, bytes);
  return Issued(0);
}

CommHandle DeviceCommunicator::Broadcast(void* data, size_t bytes, int root) {
  CHECK(0 <= root && root < size());
  BeginMessages();
  if (line_.link == nullptr || bytes == 0) return Issued(0);
  if (rank() != root) return Issued(Pass({}, {{data, bytes, root}}));
  std::vector<OutgoingMessage> sends;
  for (int to = 0; to < size(); ++to) {
    if (to != root) sends.push_back({data, bytes, to});
  }
  return Issued(Pass(std::move(sends), {}));
}

// A message has no place yet; BeginMessages gives it one.
CommHandle DeviceCommunicator::Send(const void* data, size_t bytes, int to) {
  CHECK(0 <= to && to < size() && to != rank());
  if (bytes > 0) sends_.push_back({data, bytes, to});
  return Issued(0);
}

CommHandle DeviceCommunicator::Recv(void* data, size_t bytes, int from) {
  CHECK(0 <= from && from < size() && from != rank());
  if (bytes > 0) recvs_.push_back({data, bytes, from});
  return Issued(0);
}

void DeviceCommunicator::BeginMessages() {
  if (sends_.empty() && recvs_.empty()) return;
  const uint64_t place = Pass(std::exchange(sends_, {}), std::exchange(recvs_, {}));
  for (auto at = pending_.rbegin(); at != pending_.rend() && at->place == 0; ++at) {
    at->place = place;
  }
}

void DeviceCommunicator::SumUpTo(uint64_t ticket) {
  while (!rows_.empty() && rows_.front().ticket <= ticket) {
    const Rows& sum = rows_.front();
    if (!sum.taken && !sum.is_sum()) {
      const uint64_t place = line_.link->Sum(sum.terms, sum.rows * sum.cols, sum.data);
      for (Pending& pending : pending_) {
        if (pending.ticket == sum.ticket) pending.place = place;
      }
    }
    rows_.pop_front();
  }
}

void DeviceCommunicator::JoinUpTo(uint64_t ticket) {
  uint64_t place = 0;
  while (!pending_.empty() && pending_.front().ticket <= ticket) {
    place = std::max(place, pending_.front().place);
    pending_.pop_front();
  }
  if (place > 0) line_.link->Join(place);
}

void DeviceCommunicator::Wait(CommHandle handle) {
  CHECK(handle.ticket <= last_ticket_);
  BeginMessages();
  SumUpTo(handle.ticket);
  JoinUpTo(handle.ticket);
}

SumRows DeviceCommunicator::NextRows(CommHandle handle) {
  CHECK(0 < handle.ticket && handle.ticket <= last_ticket_);
  BeginMessages();
  SumUpTo(handle.ticket - 1);
  JoinUpTo(handle.ticket);
  if (rows_.empty() || rows_.front().ticket != handle.ticket) return {};
  Rows& sum = rows_.front();
  if (sum.taken) {
    rows_.pop_front();
    return {};
  }
  sum.taken = true;
  return {0, sum.rows, sum.terms};
}

bool DeviceCommunicator::MoveOn() {
  BeginMessages();
  return host_->MoveOn();
}

CommStats DeviceCommunicator::TakeStats() {
  if (line_.link) {
    const LinkTimes times = line_.link->TakeTimes();
    stats_.exposed_seconds = times.exposed_seconds;
    stats_.hidden_seconds = std::max(0.0, times.busy_seconds - times.exposed_seconds);
  }
  return std::exchange(stats_, CommStats{});
}

}  // namespace echelon
