#pragma once
// ClientTransport: the clients' socket as an interface: whole messages in and out, never blocking.
// The real one is a ZeroMQ ROUTER (zmq_client_transport.cc); tests have their own.
//
// Thread: the coordinator's.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace echelon {

struct ClientMessage {
  std::string identity;            // of the connection
  std::vector<std::string> parts;  // at most kClientPartsKept; the rest is read and dropped
  size_t part_count = 0;           // as sent
};
inline constexpr size_t kClientPartsKept = 4;

enum class SendResult {
  kSent,
  kFull,  // the peer does not read: nothing was taken, try later
  kGone,  // no such connection any more
};

class ClientTransport {
 public:
  virtual ~ClientTransport() = default;
  // The next message that has arrived; false where there is none.
  virtual bool Receive(ClientMessage& message) = 0;
  virtual SendResult Send(const std::string& identity,
                          const std::vector<std::string_view>& parts) = 0;
  // Becomes readable when something may have arrived; edge-triggered: before sleeping on it, ask
  // HasInput().
  virtual int wake_fd() const = 0;
  virtual bool HasInput() = 0;
  // What is really bound (a port of 0 filled in).
  virtual std::string endpoint() const = 0;
};

struct ClientTransportOptions {
  std::string endpoint;           // "tcp://127.0.0.1:5760", port 0 or * = any free one
  int64_t message_bytes_max = 0;  // of one part; a peer that sends more is disconnected
};
Result<std::unique_ptr<ClientTransport>> MakeZmqClientTransport(
    const ClientTransportOptions& options);

}  // namespace echelon
