#include "tests/support/worker/process_group.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

#include "common/network.h"
#include "common/strings.h"
#include "worker/comm/group_comm.h"
#include "worker/comm/packed_text.h"

namespace echelon::testing {

namespace {

// Packets, in the order of a rank's life.
constexpr char kCard = 'c';     // who has come
constexpr char kWelcome = 'w';  // all have: what to map, and everybody's card
constexpr char kMapped = 'm';   // it is mapped
constexpr char kGo = 'g';       // by all
constexpr char kAlive = 'a';    // again and again from here on
constexpr char kDone = 'd';     // needs nobody any more
constexpr char kGoodbye = 'b';  // nobody does
constexpr char kFailed = 'f';   // the sender ends; the body says why

constexpr std::chrono::milliseconds kTurn{20};     // of the watching thread
constexpr std::chrono::milliseconds kMoment{100};  // its turns are late where cores are few
constexpr int64_t kConnectEveryMs = 5;
constexpr int kAlivesInLease = 8;
// The others wait for rank 0's verdict about who has not come.
constexpr int64_t kVerdictMs = 2'000;

using Millis = std::chrono::milliseconds;

int64_t MillisUntil(std::chrono::steady_clock::time_point end) {
  return std::chrono::duration_cast<Millis>(end - std::chrono::steady_clock::now()).count();
}

struct Announcements {
  SegmentAnnouncement bells, streams;
};

std::unique_ptr<Communicator> CommunicatorOver(int rank, int size,
                                               std::shared_ptr<SharedSegment> bells,
                                               std::shared_ptr<SharedSegment> streams,
                                               std::shared_ptr<const LongWait>* long_wait) {
  std::vector<int> seats(static_cast<size_t>(size));
  std::iota(seats.begin(), seats.end(), 0);
  auto progress =
      std::make_shared<Progress>(HostPlace{0, rank, rank, std::move(bells)}, PatienceFor(size));
  *long_wait = progress->long_wait();
  GroupMembers members(rank, std::vector<int>(static_cast<size_t>(size), 0), seats);
  return std::make_unique<GroupCommunicator>(std::move(progress), std::move(members),
                                             std::move(streams), nullptr);
}

}  // namespace

struct ProcessGroup::Card {
  int32_t rank = 0, size = 0, process = 0;
  char host[64] = {};
  std::string Name() const {
    return StrCat("rank ", rank, " on host ", host, ", process ", process);
  }
  std::string Bytes() const { return {reinterpret_cast<const char*>(this), sizeof(*this)}; }
  static Result<Card> From(const std::string& bytes) {
    Card card;
    if (bytes.size() != sizeof(card)) return Corrupt("another program came to the group's socket");
    std::memcpy(&card, bytes.data(), sizeof(card));
    return card;
  }
};

ProcessGroup::ProcessGroup(const ProcessGroupOptions& options)
    : options_(options),
      host_(HostName()),
      join_end_(Clock::now() + Millis(options.join_ms)),
      names_(static_cast<size_t>(options.size)) {}

Result<std::unique_ptr<ProcessGroup>> ProcessGroup::Join(const ProcessGroupOptions& options) {
  std::unique_ptr<ProcessGroup> group(new ProcessGroup(options));
  RETURN_IF_ERROR(options.rank == 0 ? group->MeetAsFirst() : group->MeetAsOther());
  group->watch_ = std::thread([raw = group.get()] { raw->Watch(); });
  return group;
}

ProcessGroup::~ProcessGroup() {
  if (!watch_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    deserting_ = true;
  }
  watch_.join();
}

// Of those that have come.
void ProcessGroup::UseCards(const std::vector<Card>& cards) {
  const std::lock_guard lock(mutex_);
  for (const Card& card : cards) names_[static_cast<size_t>(card.rank)] = card.Name();
}

Error ProcessGroup::Missing() const {
  std::vector<std::string> missing, here;
  for (size_t rank = 0; rank < names_.size(); ++rank) {
    if (names_[rank].empty()) missing.push_back(StrCat("rank ", rank));
    if (!names_[rank].empty()) here.push_back(names_[rank]);
  }
  return Unavailable(StrCat(
      echelon::Join(missing, ", "), " of ", options_.size, " did not come to host ", host_,
      " within ", options_.join_ms,
      " ms: start it, or see what it said as it ended (there: ", echelon::Join(here, "; "), ")"));
}

// Rank 0: everybody connects and shows a card; when all have, they map what it has made.
Status ProcessGroup::MeetAsFirst() {
  Card mine{0, options_.size, getpid()};
  PutText(mine.host, host_);
  std::vector<Card> cards = {mine};
  UseCards(cards);
  ASSIGN_OR_RETURN(PacketSocket door, PacketSocket::Listen(options_.meeting));
  while (static_cast<int>(cards.size()) < options_.size) {
    std::optional<PacketSocket> came = door.Accept(MillisUntil(join_end_));
    Packet packet;
    if (!came || came->Receive(&packet, MillisUntil(join_end_)) != PacketSocket::Outcome::kPacket) {
      if (MillisUntil(join_end_) > 0) continue;
      const Error missing = Missing();
      Tell(kFailed, missing.message);
      return missing;
    }
    ASSIGN_OR_RETURN(const Card card, Card::From(packet.body));
    const bool known = card.rank > 0 && card.rank < options_.size;
    if (card.size != options_.size || !known || !names_[static_cast<size_t>(card.rank)].empty()) {
      const std::string refused =
          StrCat("process ", card.process, " came as rank ", card.rank, " of ", card.size,
                 " to a group of ", options_.size, " that ", known ? "has it" : "has no such rank",
                 ": start each rank once, with the same --size");
      came->Send(kFailed, refused);
      Tell(kFailed, refused);
      return InvalidArgument(refused);
    }
    peers_.push_back({card.rank, *std::move(came)});
    cards.push_back(card);
    UseCards(cards);
  }
  std::sort(cards.begin(), cards.end(),
            [](const Card& a, const Card& b) { return a.rank < b.rank; });
  ASSIGN_OR_RETURN(const auto bells,
                   SharedSegment::Create(static_cast<size_t>(options_.size) * sizeof(Bell)));
  std::shared_ptr<SharedSegment> streams;
  if (options_.size > 1) {
    ASSIGN_OR_RETURN(streams, SharedSegment::Create(NearGroup::SegmentBytes(options_.size)));
  }
  const Announcements made{bells->Announce(),
                           streams ? streams->Announce() : SegmentAnnouncement{}};
  std::string welcome(reinterpret_cast<const char*>(&made), sizeof(made));
  for (const Card& card : cards) welcome += card.Bytes();
  Tell(kWelcome, welcome);
  for (Peer& peer : peers_) {
    Packet packet;
    if (peer.socket.Receive(&packet, options_.join_ms) != PacketSocket::Outcome::kPacket ||
        packet.kind != kMapped) {
      const std::string why = packet.kind == kFailed ? packet.body : "it is gone";
      Tell(kFailed, why);
      return Unavailable(StrCat(names_[static_cast<size_t>(peer.rank)],
                                " did not map what the ranks share: ", why));
    }
  }
  bells->CloseDescriptor();
  if (streams) streams->CloseDescriptor();
  Tell(kGo);
  world_ = CommunicatorOver(0, options_.size, bells, streams, &long_wait_);
  return {};
}

Status ProcessGroup::MeetAsOther() {
  Card mine{options_.rank, options_.size, getpid()};
  PutText(mine.host, host_);
  auto door = PacketSocket::Connect(options_.meeting);
  while (!door.ok() && MillisUntil(join_end_) > 0) {
    std::this_thread::sleep_for(Millis(kConnectEveryMs));
    door = PacketSocket::Connect(options_.meeting);
  }
  UseCards({mine});
  if (!door.ok()) {
    return Unavailable(StrCat(
        "rank 0 of ", options_.size, " did not come to host ", host_, " within ", options_.join_ms,
        " ms: start it, or see what it said as it ended (", door.error().message, ")"));
  }
  peers_.push_back({0, *std::move(door)});
  PacketSocket& first = peers_[0].socket;
  Tell(kCard, mine.Bytes());
  const auto receive = [&](char wanted) -> Result<std::string> {
    Packet packet;
    const auto outcome = first.Receive(&packet, MillisUntil(join_end_) + kVerdictMs);
    if (outcome == PacketSocket::Outcome::kPacket && packet.kind == wanted) return packet.body;
    if (outcome == PacketSocket::Outcome::kPacket) return Unavailable(packet.body);
    return Unavailable(StrCat("rank 0 on host ", host_,
                              outcome == PacketSocket::Outcome::kGone ? " is gone" : " is silent",
                              " while the ranks meet: see what it said"));
  };
  ASSIGN_OR_RETURN(const std::string welcome, receive(kWelcome));
  const Status mapped = MakeWorld(welcome);
  Tell(mapped.ok() ? kMapped : kFailed, mapped.ok() ? "" : mapped.error().message);
  RETURN_IF_ERROR(mapped);
  RETURN_IF_ERROR(receive(kGo));
  return {};
}

Status ProcessGroup::MakeWorld(const std::string& welcome) {
  Announcements made;
  const auto size = static_cast<size_t>(options_.size);
  if (welcome.size() != sizeof(made) + size * sizeof(Card))
    return Corrupt("a welcome of another size");
  std::memcpy(&made, welcome.data(), sizeof(made));
  std::vector<Card> cards;
  for (size_t rank = 0; rank < size; ++rank) {
    ASSIGN_OR_RETURN(const Card card,
                     Card::From(welcome.substr(sizeof(made) + rank * sizeof(Card), sizeof(Card))));
    cards.push_back(card);
  }
  UseCards(cards);
  ASSIGN_OR_RETURN(const auto bells, SharedSegment::Attach(made.bells));
  ASSIGN_OR_RETURN(const auto streams, SharedSegment::Attach(made.streams));
  world_ = CommunicatorOver(options_.rank, options_.size, bells, streams, &long_wait_);
  return {};
}

void ProcessGroup::Tell(char kind, const std::string& body) {
  for (Peer& peer : peers_) peer.socket.Send(kind, body);
}

void ProcessGroup::Introduce(const std::string& device) {
  char text[192] = {};
  PutText(text, StrCat(", ", device));
  std::vector<char> all(sizeof(text) * static_cast<size_t>(options_.size));
  world_->Wait(world_->AllGather(text, all.data(), sizeof(text)));
  const std::lock_guard lock(mutex_);
  for (size_t rank = 0; rank < names_.size(); ++rank) names_[rank] += &all[rank * sizeof(text)];
}

void ProcessGroup::Begin(const std::string& what) {
  const std::lock_guard lock(mutex_);
  at_ = what;
  at_since_ = Clock::now();
}

void ProcessGroup::Leave() {
  Begin("the end");
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  watch_.join();
}

bool ProcessGroup::AllDone() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.done; });
}

// Rank 0 waits until all others are done and says so; they wait for its word.
void ProcessGroup::Watch() {
  const Millis alive_every(options_.lease_ms / kAlivesInLease);
  auto next_alive = Clock::now();
  bool told_done = false;
  for (;;) {
    if (const std::optional<Loss> loss = LookAround()) {
      if (!options_.lost) End(*loss);
      Tell(kFailed, loss->how);
      options_.lost(loss->how);
      return;
    }
    std::unique_lock lock(mutex_);
    const bool leaving = leaving_, deserting = deserting_;
    lock.unlock();
    if ((deserting || (leaving && options_.rank > 0)) && !std::exchange(told_done, true)) {
      Tell(kDone);
    }
    if (deserting) return;
    if (leaving && AllDone()) {
      if (options_.rank == 0) Tell(kGoodbye);
      return;
    }
    if (Clock::now() >= next_alive) {
      Tell(kAlive);
      next_alive = Clock::now() + alive_every;
    }
  }
}

std::optional<ProcessGroup::Loss> ProcessGroup::LookAround() {
  if (peers_.empty()) std::this_thread::sleep_for(kTurn);
  for (Peer& peer : peers_) {
    if (auto loss = Hear(peer)) return loss;
  }
  return CheckStep();
}

std::optional<ProcessGroup::Loss> ProcessGroup::Hear(Peer& peer) {
  const auto name = [&] {
    const std::lock_guard lock(mutex_);
    return names_[static_cast<size_t>(peer.rank)];
  };
  Packet packet;
  // The first look waits; what has come meanwhile is taken before anybody is given up.
  int64_t wait_ms = kTurn.count() / static_cast<int64_t>(peers_.size());
  for (;;) {
    const auto outcome = peer.socket.Receive(&packet, std::exchange(wait_ms, 0));
    if (outcome == PacketSocket::Outcome::kNothing) break;
    if (outcome == PacketSocket::Outcome::kGone) {
      if (peer.done) return std::nullopt;
      return Loss{kAnotherFailed, StrCat(name(), " is gone: see what it said, or who ended it")};
    }
    peer.heard = Clock::now();
    if (packet.kind == kFailed) return Loss{kAnotherFailed, packet.body};
    if (packet.kind == kDone || packet.kind == kGoodbye) peer.done = true;
  }
  const auto silent = std::chrono::duration_cast<Millis>(Clock::now() - peer.heard).count();
  if (peer.done || silent < options_.lease_ms) return std::nullopt;
  return Loss{kAnotherFailed, StrCat(name(), " has not said anything for ", silent,
                                     " ms: it is stopped, or its host is; continue or end it")};
}

std::optional<ProcessGroup::Loss> ProcessGroup::CheckStep() {
  const std::lock_guard lock(mutex_);
  if (at_.empty() || Clock::now() - at_since_ < Millis(options_.step_ms)) return std::nullopt;
  std::vector<std::string> awaited;
  for (const int rank : long_wait_->Get().ranks) {
    awaited.push_back(names_[static_cast<size_t>(rank)]);
  }
  const std::string why = awaited.empty() ? "it computes, or waits for its device"
                                          : StrCat("it waits for ", echelon::Join(awaited, " or "));
  return Loss{kRankFailed, StrCat(names_[static_cast<size_t>(options_.rank)], ": ", at_,
                                  " is not over after ", options_.step_ms, " ms; ", why)};
}

void ProcessGroup::Fail(const std::string& why) {
  std::unique_lock lock(mutex_);
  const std::string name = names_[static_cast<size_t>(options_.rank)];
  lock.unlock();
  std::fprintf(stderr, "%s: %s\n", name.c_str(), why.c_str());
  std::this_thread::sleep_for(kMoment);
  End({kRankFailed, StrCat(name, ": ", why)});
}

void ProcessGroup::End(const Loss& loss) {
  Tell(kFailed, loss.how);
  std::fprintf(stderr, "rank %d ends: %s\n", options_.rank, loss.how.c_str());
  std::fflush(nullptr);
  _exit(loss.status);
}

}  // namespace echelon::testing
