#include "worker/comm/peer_wire.h"

#include <fstream>
#include <utility>

#include "common/strings.h"
#include "worker/comm/first_problem.h"
#include "worker/comm/packed_text.h"

namespace echelon {

namespace {

// What ranks tell each other; longer texts are cut off.
struct PackedPart {
  char machine[64] = {};
  char host[64] = {};
  char device[64] = {};
  PeerHandle handle;
};

// The same for all containers of a machine, another one after each of its starts.
std::string MachineIdentity() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string identity;
  std::getline(file, identity);
  return identity;
}

Status OnOneHost(const std::vector<PackedPart>& parts) {
  const auto name = [](const PackedPart& part) {
    return std::pair(std::string(part.machine), std::string(part.host));
  };
  for (size_t rank = 1; rank < parts.size(); ++rank) {
    if (name(parts[rank]) == name(parts[0])) continue;
    return Unsupported(StrCat("rank ", rank, " of the group is on host ", parts[rank].host,
                              ", rank 0 on host ", parts[0].host,
                              ", and memory is shared within a host alone"));
  }
  return {};
}

Result<std::unique_ptr<Mailboxes>> NewMailboxes(const Communicator& host, DeviceLink& link,
                                                const PeerWireOptions& options) {
  if (host.size() > DeviceLink::kMailRanksMax) {
    return Unsupported(StrCat("the group has ", host.size(), " ranks, mailboxes at most ",
                              DeviceLink::kMailRanksMax));
  }
  return link.NewMailboxes({host.rank(), host.size(), options.wait_ms});
}

}  // namespace

Result<std::unique_ptr<DeviceWire>> PeerWire::Make(Communicator& host, DeviceLink& link,
                                                   const PeerWireOptions& options) {
  PackedPart mine;
  PutText(mine.machine, MachineIdentity());
  PutText(mine.host, options.host);
  PutText(mine.device, link.card().name);
  Result<std::unique_ptr<Mailboxes>> mail = NewMailboxes(host, link, options);
  RETURN_IF_ERROR(FirstProblem(host, options.host, mail));
  mine.handle = (*mail)->handle();
  std::vector<PackedPart> parts(static_cast<size_t>(host.size()));
  host.Wait(host.AllGather(&mine, parts.data(), sizeof(mine)));
  RETURN_IF_ERROR(OnOneHost(parts));

  std::vector<PeerHandle> handles;
  std::vector<std::string> devices;
  for (const PackedPart& part : parts) {
    handles.push_back(part.handle);
    devices.push_back(StrCat("host ", part.host, ", ", part.device));
  }
  Status usable = FirstProblem(host, options.host, (*mail)->Connect(handles));
  if (usable.ok() && host.size() > 1) usable = FirstProblem(host, options.host, (*mail)->Try());
  if (!usable.ok()) {
    // Nobody gives memory back that others still map.
    (*mail)->Disconnect();
    static_cast<void>(FirstProblem(host, options.host, Status()));
    return usable.error();
  }
  return std::unique_ptr<DeviceWire>(
      new PeerWire(host.rank(), options, *std::move(mail), std::move(devices)));
}

PeerWire::PeerWire(int rank, const PeerWireOptions& options, std::unique_ptr<Mailboxes> mail,
                   std::vector<std::string> devices)
    : rank_(rank), options_(options), mail_(std::move(mail)), devices_(std::move(devices)) {
  options_.watch->Add(this);
}

PeerWire::~PeerWire() { options_.watch->Remove(this); }

Status PeerWire::AllGather(const void* send, void* recv, size_t bytes, void* stream) {
  return mail_->AllGather(send, recv, bytes, stream);
}

Status PeerWire::Pass(std::span<const OutgoingMessage> sends,
                      std::span<const IncomingMessage> recvs, void* stream) {
  return mail_->Pass(sends, recvs, stream);
}

Status PeerWire::Check() const {
  const auto missing = mail_->unanswered();
  if (!missing) return {};
  Error failed = Unavailable(StrCat(
      "rank ", rank_, " of the group on ", devices_[static_cast<size_t>(rank_)],
      ": peer memory: rank ", missing->rank, " (", devices_[static_cast<size_t>(missing->rank)],
      ") has not ", missing->sent ? "taken what it was sent" : "sent what is due", " for ",
      options_.wait_ms, " ms: see whether it still runs and what its log says last"));
  failed.host = options_.host;
  return failed;
}

}  // namespace echelon
