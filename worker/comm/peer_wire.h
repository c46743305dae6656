#pragma once
// PeerWire: a DeviceWire among ranks of one host whose devices reach each other's memory, or who
// share a device: messages pass through mailboxes (DeviceLink::NewMailboxes) without a library.
//
// Messages go through the receiver's mailbox, and out of it by the receiver's own kernel, rather
// than straight to where they belong: any memory may be sent and received, nobody has to know when
// the other has read what it was sent last, and a rank may run ahead as it likes. The price is one
// more copy in the receiver's memory: of 1 MiB from each of 7 ranks some 5 us at 3 TB/s, beside the
// 16 us that they take over a wire of 450 GB/s; of a decode step's 32 KiB nothing.
//
// A rank that does not come is waited for wait_ms, then the wire is in error for good and what it
// brought is undefined: Check says for whom. Thread: the rank's.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "kernels/device_link.h"
#include "worker/comm/communicator.h"
#include "worker/comm/device_wire.h"

namespace echelon {

struct PeerWireOptions {
  std::shared_ptr<WireWatch> watch;
  std::string host;          // this rank's, for errors
  int64_t wait_ms = 20'000;  // for another rank's message
};

class PeerWire final : public DeviceWire {
 public:
  // Collective over `host`. If any of the ranks does not reach all the others, all get the same
  // error. The link outlives the wire.
  static Result<std::unique_ptr<DeviceWire>> Make(Communicator& host, DeviceLink& link,
                                                  const PeerWireOptions& options);
  ~PeerWire() override;

  Status AllGather(const void* send, void* recv, size_t bytes, void* stream) override;
  Status Pass(std::span<const OutgoingMessage> sends, std::span<const IncomingMessage> recvs,
              void* stream) override;
  Status Check() const override;

 private:
  PeerWire(int rank, const PeerWireOptions& options, std::unique_ptr<Mailboxes> mail,
           std::vector<std::string> devices);

  const int rank_;
  const PeerWireOptions options_;
  const std::unique_ptr<Mailboxes> mail_;
  const std::vector<std::string> devices_;  // of the ranks, for errors
};

}  // namespace echelon
