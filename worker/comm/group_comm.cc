#include "worker/comm/group_comm.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/check.h"
#include "worker/comm/exchange.h"
#include "worker/comm/reduction.h"

namespace echelon {

namespace {

// A turn at a socket is a system call or two, some 2 us: every 50 us they are 4 % of the time while
// bytes are in flight.
constexpr double kPollSeconds = 50e-6;
// What needs no turn is looked at so often, only to know when it came: 1 % of the time.
constexpr double kNoticeSeconds = 200e-6;
// What a stream or a socket takes at once arrives without anyone's turn: a stream to one rank holds
// 256 KiB, a socket's buffers at least 200 KiB (Linux' default), shared with other communicators.
constexpr size_t kPolledBytesMin = 64 << 10;

double NowSeconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

std::unique_ptr<NearGroup> MakeNear(std::shared_ptr<SharedSegment> segment,
                                    const GroupMembers& members, const Progress& progress) {
  if (members.near.size() == 1) return nullptr;
  CHECK(segment != nullptr);
  std::vector<int> seats;
  for (const int rank : members.near) seats.push_back(members.seat[rank]);
  return std::make_unique<NearGroup>(std::move(segment), progress, members.near, seats,
                                     members.index_on_host[members.rank]);
}

}  // namespace

GroupMembers::GroupMembers(int rank, std::vector<int> host, std::vector<int> seat,
                           std::span<const int> of_world)
    : rank(rank), host(std::move(host)), seat(std::move(seat)) {
  for (int r = 0; r < size(); ++r) {
    const auto same = [&](int end) {
      return static_cast<int>(
          std::count(this->host.begin(), this->host.begin() + end, this->host[r]));
    };
    index_on_host.push_back(same(r));
    ranks_on_host.push_back(same(size()));
    if (index_on_host.back() == 0) ++hosts;
    ranks_per_host_max = std::max(ranks_per_host_max, ranks_on_host.back());
    if (IsNear(r)) near.push_back(r);
    if (r != rank) others.push_back(of_world.empty() ? r : of_world[r]);
  }
}

GroupCommunicator::GroupCommunicator(std::shared_ptr<Progress> progress, GroupMembers members,
                                     std::shared_ptr<SharedSegment> segment,
                                     std::unique_ptr<FarLink> far)
    : progress_(std::move(progress)), wires_{std::move(members), nullptr, std::move(far)} {
  wires_.near = MakeNear(std::move(segment), wires_.members, *progress_);
  CHECK(wires_.far || wires_.members.hosts == 1);
  progress_->Add(this);
}

GroupCommunicator::~GroupCommunicator() { progress_->Remove(this); }

CommHandle GroupCommunicator::Issue(std::unique_ptr<GroupOperation> operation, size_t bytes,
                                    Reduction* rows) {
  if (in_flight_ == 0) {
    in_flight_since_ = progress_->ComputeSeconds();
    bytes_in_flight_ = 0;
  }
  bytes_in_flight_ += bytes;
  if (operation) ++in_flight_;
  pending_.push_back({++last_ticket_, std::move(operation), rows});
  ++stats_.operations;
  return {last_ticket_};
}

CommHandle GroupCommunicator::AllReduceSum(float* data, int64_t count) {
  CHECK(count >= 0);
  if (size() == 1 || count == 0) return Issue(nullptr, 0);
  auto sum = MakeReduction(wires_, data, 1, count);
  sum->SumIntoData();
  return Issue(std::move(sum), static_cast<size_t>(count) * sizeof(float));
}

CommHandle GroupCommunicator::AllReduceRows(float* data, int64_t rows, int64_t cols) {
  CHECK(rows >= 0 && cols >= 0);
  if (rows * cols == 0) return Issue(nullptr, 0);
  auto sum = MakeReduction(wires_, data, rows, cols);
  Reduction* const whose_rows = sum.get();
  return Issue(std::move(sum), static_cast<size_t>(rows * cols) * sizeof(float), whose_rows);
}

CommHandle GroupCommunicator::AllGather(const void* send, void* recv, size_t bytes) {
  return Issue(MakeAllGather(wires_, send, recv, bytes), bytes);
}

CommHandle GroupCommunicator::Broadcast(void* data, size_t bytes, int root) {
  return Issue(MakeBroadcast(wires_, data, bytes, root), bytes);
}

CommHandle GroupCommunicator::Send(const void* data, size_t bytes, int to) {
  return Issue(MakeSend(wires_, data, bytes, to), bytes);
}

CommHandle GroupCommunicator::Recv(void* data, size_t bytes, int from) {
  return Issue(MakeRecv(wires_, data, bytes, from), bytes);
}

// Later operations move on while earlier ones wait: they may use other streams.
void GroupCommunicator::Advance() {
  for (Pending& pending : pending_) {
    if (!pending.operation) continue;
    const bool complete = pending.operation->Advance();
    if (!pending.arrived && (complete || (pending.rows && pending.rows->HasArrived()))) {
      pending.arrived = true;
      if (arrived_) arrived_({pending.ticket});
      if (--in_flight_ == 0) CountHidden();
    }
    if (complete) pending.operation.reset();
  }
  while (!pending_.empty() && !pending_.front().operation) pending_.pop_front();
}

// Alone, nothing was ever sent.
void GroupCommunicator::CountHidden() {
  const double now = progress_->ComputeSeconds();
  if (size() > 1) stats_.hidden_seconds += now - in_flight_since_;
  in_flight_since_ = now;
}

bool GroupCommunicator::awaits_other_hosts() const {
  return std::any_of(pending_.begin(), pending_.end(), [](const Pending& pending) {
    return pending.operation && pending.operation->awaits_other_hosts();
  });
}

void GroupCommunicator::SumUpTo(uint64_t ticket) {
  for (Pending& pending : pending_) {
    if (pending.ticket > ticket) return;
    if (pending.operation == nullptr || pending.rows == nullptr) continue;
    std::exchange(pending.rows, nullptr)->SumIntoData();
    last_summed_ = pending.ticket;
  }
}

void GroupCommunicator::Wait(CommHandle handle) {
  CHECK(handle.ticket <= last_ticket_);
  if (IsComplete(handle)) return;
  SumUpTo(handle.ticket);
  stats_.exposed_seconds +=
      progress_->WaitUntil([&] { return IsComplete(handle); }, idle_, wires_.members.others);
}

SumRows GroupCommunicator::NextRows(CommHandle handle) {
  CHECK(last_summed_ < handle.ticket && handle.ticket <= last_ticket_);
  SumRows rows;
  const auto there = [&] {
    // Asked again before it is believed: what was taken must not be given back.
    if (!rows.empty() || IsComplete(handle)) return true;
    const Pending& first = pending_.front();
    if (first.ticket < handle.ticket || first.rows == nullptr) return false;
    rows = first.rows->TakeRows();
    return !rows.empty();
  };
  SumUpTo(handle.ticket - 1);
  const bool at_once = there();
  Advance();  // notices what has arrived, or that all rows are given back
  if (!at_once && !there()) {
    stats_.exposed_seconds += progress_->WaitUntil(there, idle_, wires_.members.others);
  }
  return rows;
}

void GroupCommunicator::Poll() {
  if (in_flight_ == 0) return;
  const double now = NowSeconds();
  if (now - polled_at_ < (bytes_in_flight_ < kPolledBytesMin ? kNoticeSeconds : kPollSeconds)) {
    return;
  }
  Advance();
  polled_at_ = now;
}

bool GroupCommunicator::MoveOn() {
  progress_->Advance();
  return progress_->in_flight();
}

CommStats GroupCommunicator::TakeStats() {
  if (in_flight_ > 0) CountHidden();
  stats_.bytes_sent = std::exchange(wires_.bytes_sent, 0);
  return std::exchange(stats_, CommStats{});
}

std::unique_ptr<Communicator> GroupCommunicator::Split(int color, int key) {
  struct Card {
    int color, key, rank, host, seat, world_rank;
  };
  const HostPlace& place = progress_->place();
  const Card mine{color, key, rank(), place.host, place.seat, place.world_rank};
  std::vector<Card> cards(size());
  Wait(AllGather(&mine, cards.data(), sizeof(Card)));
  std::erase_if(cards, [&](const Card& card) { return card.color != color; });
  std::stable_sort(cards.begin(), cards.end(),
                   [](const Card& a, const Card& b) { return a.key < b.key; });

  std::vector<int> near;  // ranks of this communicator
  for (const Card& card : cards) {
    if (card.host == mine.host) near.push_back(card.rank);
  }
  const int near_count = static_cast<int>(near.size());
  const SharedByRanks shared =
      ShareSegment(*this, near[0], near_count > 1 ? NearGroup::SegmentBytes(near_count) : 0);

  int own = 0;
  std::vector<int> host, seat, of_world;
  for (const Card& card : cards) {
    if (card.rank == mine.rank) own = static_cast<int>(host.size());
    // Without a segment a rank is a host of its own, with a number that no other host has.
    host.push_back(shared.failed[card.rank] ? -1 - card.world_rank : card.host);
    seat.push_back(card.seat);
    of_world.push_back(card.world_rank);
  }
  return std::make_unique<GroupCommunicator>(
      progress_, GroupMembers(own, std::move(host), std::move(seat), of_world), shared.segment,
      wires_.far ? wires_.far->Split(color, key) : nullptr);
}

SharedByRanks ShareSegment(Communicator& over, int leader, size_t bytes) {
  struct Outcome {
    int leader;
    bool ok;
  };
  SharedByRanks shared;
  const auto keep = [&](Result<std::shared_ptr<SharedSegment>> made) {
    if (made.ok()) {
      shared.segment = *std::move(made);
    } else {
      shared.problem = made.error().message;
    }
  };
  const bool creates = bytes > 0 && over.rank() == leader;
  if (creates) keep(SharedSegment::Create(bytes));
  const SegmentAnnouncement mine =
      shared.segment ? shared.segment->Announce() : SegmentAnnouncement{};
  std::vector<SegmentAnnouncement> announced(over.size());
  over.Wait(over.AllGather(&mine, announced.data(), sizeof(mine)));
  if (bytes > 0 && !creates && announced[leader].process != 0) {
    keep(SharedSegment::Attach(announced[leader]));
  }

  const Outcome outcome{leader, bytes == 0 || shared.segment != nullptr};
  std::vector<Outcome> outcomes(over.size());
  over.Wait(over.AllGather(&outcome, outcomes.data(), sizeof(outcome)));
  shared.failed.resize(over.size());
  for (const Outcome& bad : outcomes) {
    if (bad.ok) continue;
    for (int rank = 0; rank < over.size(); ++rank) {
      if (outcomes[rank].leader == bad.leader) shared.failed[rank] = true;
    }
  }
  if (creates && shared.segment) shared.segment->CloseDescriptor();
  if (shared.failed[over.rank()]) shared.segment.reset();
  return shared;
}

}  // namespace echelon
