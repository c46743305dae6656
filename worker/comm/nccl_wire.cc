#include "worker/comm/nccl_wire.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "common/strings.h"
#include "worker/comm/packed_text.h"

namespace echelon {

namespace {

using Clock = std::chrono::steady_clock;

// One gather of fixed size; longer names are cut off.
struct PackedCard {
  char host[64] = {};
  char device[64] = {};
  char host_id[64] = {};
  std::array<uint8_t, 16> uuid = {};
  int32_t nccl = 0, runtime = 0;
};

std::vector<PackedCard> GatherCards(Communicator& host, const NcclWireOptions& options) {
  PackedCard packed;
  PutText(packed.host, options.host);
  PutText(packed.device, options.card.name);
  PutText(packed.host_id, options.host_id);
  packed.uuid = options.card.uuid;
  packed.nccl = options.library->Version();
  packed.runtime = options.card.runtime_version;
  std::vector<PackedCard> cards(static_cast<size_t>(host.size()));
  host.Wait(host.AllGather(&packed, cards.data(), sizeof(PackedCard)));
  return cards;
}

std::string OnHost(size_t rank, const PackedCard& card) {
  return StrCat("rank ", rank, " on host ", card.host);
}

std::string NameOf(size_t rank, const PackedCard& card) {
  return StrCat(OnHost(rank, card), ", ", card.device);
}

std::string RuntimeText(int version) {
  return StrCat("CUDA runtime ", version / 1000, ".", version % 1000 / 10);
}

// What NCCL would meet later, and say less clearly.
Status CheckCards(const std::vector<PackedCard>& cards) {
  const PackedCard& first = cards[0];
  for (size_t rank = 1; rank < cards.size(); ++rank) {
    const PackedCard& card = cards[rank];
    const auto differ = [&](const std::string& theirs, const std::string& firsts,
                            const char* remedy) {
      return InvalidArgument(StrCat(NameOf(rank, card), ", has ", theirs, ", ", NameOf(0, first),
                                    ", has ", firsts, ": ", remedy));
    };
    if (card.nccl != first.nccl) {
      return differ(StrCat("NCCL ", NcclVersionText(card.nccl)),
                    StrCat("NCCL ", NcclVersionText(first.nccl)),
                    "install the same libnccl.so.2 on every host");
    }
    if (card.runtime != first.runtime) {
      return differ(RuntimeText(card.runtime), RuntimeText(first.runtime),
                    "run the same build on every host");
    }
    for (size_t other = 0; other < rank; ++other) {
      const PackedCard& held = cards[other];
      if (held.uuid != card.uuid || std::string(held.host_id) != card.host_id) continue;
      return InvalidArgument(StrCat(OnHost(rank, card), " computes on ", card.device, ", as ",
                                    OnHost(other, held),
                                    " does, and NCCL joins one rank a device: give each rank a "
                                    "device of its own, or exchange "
                                    "through host memory"));
    }
  }
  return {};
}

// What rank 0 hands out.
struct Invitation {
  bool ok = false;
  NcclId id;
  char error[512] = {};
};

Result<NcclId> Invite(Communicator& host, NcclLibrary& library) {
  Invitation invitation;
  if (host.rank() == 0) {
    const Result<NcclId> made = library.NewId();
    invitation.ok = made.ok();
    if (made.ok()) invitation.id = *made;
    if (!made.ok()) PutText(invitation.error, made.error().message);
  }
  host.Wait(host.Broadcast(&invitation, sizeof(invitation), 0));
  if (!invitation.ok) return Unavailable(StrCat("rank 0 of the group: ", invitation.error));
  return invitation.id;
}

// Who has come to the point where NCCL waits for all: one byte from each to each. Messages may
// still be under way when a wait ends without all, so this lives as long as the host communicator.
struct JoinNotes {
  std::vector<uint8_t> bytes;        // (ranks)
  std::vector<CommHandle> handles;   // (ranks)
  std::vector<uint8_t> has_arrived;  // (ranks)
};

std::shared_ptr<JoinNotes> ExchangeNotes(Communicator& host) {
  const auto ranks = static_cast<size_t>(host.size());
  auto notes = std::make_shared<JoinNotes>();
  notes->bytes.resize(ranks);
  notes->handles.resize(ranks);
  notes->has_arrived.resize(ranks);
  notes->has_arrived[static_cast<size_t>(host.rank())] = 1;
  host.SetArrived([notes](CommHandle handle) {
    for (size_t rank = 0; rank < notes->handles.size(); ++rank) {
      if (notes->handles[rank].ticket == handle.ticket) notes->has_arrived[rank] = 1;
    }
  });
  uint8_t* const bytes = notes->bytes.data();
  for (int rank = 0; rank < host.size(); ++rank) {
    if (rank != host.rank()) host.Send(bytes + host.rank(), 1, rank);
  }
  for (int rank = 0; rank < host.size(); ++rank) {
    if (rank != host.rank()) {
      notes->handles[static_cast<size_t>(rank)] = host.Recv(bytes + rank, 1, rank);
    }
  }
  return notes;
}

}  // namespace

NcclWire::NcclWire(int rank, const NcclWireOptions& options) : rank_(rank), options_(options) {
  options_.watch->Add(this);
}

NcclWire::~NcclWire() { options_.watch->Remove(this); }

Result<std::vector<std::string>> NcclWire::Compare(Communicator& host,
                                                   const NcclWireOptions& options) {
  const std::vector<PackedCard> cards = GatherCards(host, options);
  RETURN_IF_ERROR(CheckCards(cards));
  std::vector<std::string> ranks;
  for (const PackedCard& card : cards) ranks.push_back(NameOf(ranks.size(), card));
  return ranks;
}

Result<std::unique_ptr<DeviceWire>> NcclWire::Make(Communicator& host,
                                                   const NcclWireOptions& options,
                                                   const std::vector<std::string>& ranks) {
  std::unique_ptr<NcclWire> made(new NcclWire(host.rank(), options));
  RETURN_IF_ERROR(made->Join(host, ranks));
  return std::unique_ptr<DeviceWire>(std::move(made));
}

Result<std::unique_ptr<DeviceWire>> NcclWire::Make(Communicator& host,
                                                   const NcclWireOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<std::string> ranks, Compare(host, options));
  return Make(host, options, ranks);
}

Status NcclWire::Join(Communicator& host, const std::vector<std::string>& ranks) {
  ranks_ = ranks;
  ASSIGN_OR_RETURN(const NcclId id, Invite(host, *options_.library));
  NcclOutcome outcome = options_.library->Init(id, host.size(), rank_, &comm_);
  if (outcome.state == NcclOutcome::kFailed) return Failed("joining the group", outcome.error);
  const auto notes = ExchangeNotes(host);
  const auto end = Clock::now() + std::chrono::milliseconds(options_.join_ms);
  while (outcome.state == NcclOutcome::kInProgress && Clock::now() < end) {
    host.Poll();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    outcome = options_.library->State(comm_);
  }
  if (outcome.state == NcclOutcome::kFailed) return Failed("joining the group", outcome.error);
  if (outcome.state == NcclOutcome::kDone) {  // all have come
    host.Wait(*std::max_element(notes->handles.begin(), notes->handles.end(),
                                [](CommHandle a, CommHandle b) { return a.ticket < b.ticket; }));
    host.SetArrived(nullptr);
    return {};
  }
  std::vector<std::string> missing;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (!notes->has_arrived[rank]) missing.push_back(ranks[rank]);
  }
  const std::string who = missing.empty() ? "all ranks have come, but NCCL does not reach them"
                                          : StrCat("waiting for ", echelon::Join(missing, ", "));
  const std::string interface =
      options_.interface.empty()
          ? "the interface was chosen by NCCL: set group.interface to the network between the hosts"
          : StrCat("NCCL_SOCKET_IFNAME is ", options_.interface,
                   " (it, or group.interface, was set so): check that it is the one between the "
                   "hosts");
  return Failed("joining the group",
                StrCat("not complete after ", options_.join_ms, " ms, ", who, "; ", interface));
}

Error NcclWire::Failed(const char* what, const std::string& error) const {
  Error failed = Unavailable(StrCat("rank ", rank_, " of the group on host ", options_.host, ", ",
                                    options_.card.name, ": NCCL, ", what, ": ", error));
  failed.host = options_.host;
  return failed;
}

// What keeps NCCL from enqueuing is connecting, at the first operation between two ranks.
Status NcclWire::Finish(const char* what, NcclOutcome outcome, std::vector<int> others) {
  const auto end = Clock::now() + std::chrono::milliseconds(options_.wait_ms);
  while (outcome.state == NcclOutcome::kInProgress && Clock::now() < end) {
    outcome = options_.library->State(comm_);
  }
  if (outcome.state == NcclOutcome::kDone) return {};
  if (outcome.state == NcclOutcome::kFailed) return Failed(what, outcome.error);
  std::vector<std::string> who;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    const bool has_part = others.empty() || std::ranges::count(others, rank) > 0;
    if (rank != rank_ && has_part) who.push_back(ranks_[static_cast<size_t>(rank)]);
  }
  return Failed(what, StrCat("not enqueued after ", options_.wait_ms, " ms, it may wait for ",
                             echelon::Join(who, ", "),
                             ": see what its log says last, and NCCL with NCCL_DEBUG=WARN"));
}

Status NcclWire::AllGather(const void* send, void* recv, size_t bytes, void* stream) {
  return Finish("an all-gather", options_.library->AllGather(comm_, send, recv, bytes, stream));
}

Status NcclWire::Pass(std::span<const OutgoingMessage> sends,
                      std::span<const IncomingMessage> recvs, void* stream) {
  NcclLibrary& nccl = *options_.library;
  NcclOutcome failed;
  std::vector<int> others;
  const auto note = [&](NcclOutcome outcome) {
    if (failed.state != NcclOutcome::kFailed) failed = std::move(outcome);
  };
  note(nccl.GroupStart());
  for (const OutgoingMessage& send : sends) {
    others.push_back(send.to);
    note(nccl.Send(comm_, send.data, send.bytes, send.to, stream));
  }
  for (const IncomingMessage& recv : recvs) {
    others.push_back(recv.from);
    note(nccl.Recv(comm_, recv.data, recv.bytes, recv.from, stream));
  }
  note(nccl.GroupEnd());  // also after an error: it ends the group
  return Finish("messages", std::move(failed), std::move(others));
}

Status NcclWire::Check() const {
  if (comm_ == nullptr) return {};
  const NcclOutcome outcome = options_.library->State(comm_);
  if (outcome.state != NcclOutcome::kFailed) return {};
  return Failed("an operation under way", outcome.error);
}

}  // namespace echelon
