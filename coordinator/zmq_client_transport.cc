#include <cerrno>
#include <zmq.hpp>

#include "common/strings.h"
#include "coordinator/address.h"
#include "coordinator/client_transport.h"

namespace echelon {

namespace {

// Messages to one peer that wait in ZeroMQ before kFull. An event is at most kEventBytesMax
// (frontend_delivery.cc), so a client that does not read holds about 64 x 64 KiB = 4 MiB, and as
// much more as its requests' `done` have: prompt ids and log-probabilities, some MB where asked
// for.
constexpr int kSendQueueMessages = 64;
// Messages of one peer that wait before its connection is no longer read.
constexpr int kReceiveQueueMessages = 64;
// A peer whose TCP connection is half open is noticed after interval + timeout.
constexpr int kHeartbeatIntervalMs = 5'000;
constexpr int kHeartbeatTimeoutMs = 15'000;
constexpr int kHandshakeMs = 5'000;

class ZmqClientTransport final : public ClientTransport {
 public:
  ZmqClientTransport() : socket_(context_, zmq::socket_type::router) {}

  Status Bind(const ClientTransportOptions& options) {
    if (options.endpoint.rfind("tcp://", 0) == 0 && !HasValidPort(options.endpoint)) {
      return InvalidArgument(StrCat("cannot listen for clients on ", options.endpoint,
                                    ": the port must be from 0 to 65535"),
                             "frontend.endpoint");
    }
    try {
      socket_.set(zmq::sockopt::router_mandatory, true);
      socket_.set(zmq::sockopt::maxmsgsize, options.message_bytes_max);
      socket_.set(zmq::sockopt::sndhwm, kSendQueueMessages);
      socket_.set(zmq::sockopt::rcvhwm, kReceiveQueueMessages);
      socket_.set(zmq::sockopt::heartbeat_ivl, kHeartbeatIntervalMs);
      socket_.set(zmq::sockopt::heartbeat_timeout, kHeartbeatTimeoutMs);
      socket_.set(zmq::sockopt::handshake_ivl, kHandshakeMs);
      socket_.set(zmq::sockopt::linger, 500);  // ms: last errors leave before the program ends
      socket_.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
      socket_.bind(options.endpoint);
      endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
    } catch (const zmq::error_t& error) {
      Error out = InvalidArgument(
          StrCat("cannot listen for clients on ", options.endpoint, ": ", error.what()));
      out.field = "frontend.endpoint";
      return out;
    }
    return Status();
  }

  bool Receive(ClientMessage& message) override {
    message = {};
    zmq::message_t part;
    if (!Take(part)) return false;
    message.identity = part.to_string();
    while (part.more()) {
      if (!Take(part)) break;  // cannot happen: parts of a message arrive together
      ++message.part_count;
      if (message.parts.size() < kClientPartsKept) message.parts.push_back(part.to_string());
    }
    return true;
  }

  SendResult Send(const std::string& identity,
                  const std::vector<std::string_view>& parts) override {
    // A ROUTER accepts or refuses the whole message at its first part.
    if (!SendPart(identity, true)) {
      return errno == EAGAIN ? SendResult::kFull : SendResult::kGone;
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      if (!SendPart(parts[i], i + 1 < parts.size())) return SendResult::kGone;
    }
    return SendResult::kSent;
  }

  int wake_fd() const override { return socket_.get(zmq::sockopt::fd); }
  bool HasInput() override { return (socket_.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0; }
  std::string endpoint() const override { return endpoint_; }

 private:
  bool Take(zmq::message_t& part) {
    try {
      return socket_.recv(part, zmq::recv_flags::dontwait).has_value();
    } catch (const zmq::error_t&) {
      return false;  // interrupted by a signal: the next turn reads it
    }
  }
  // With errno where it fails.
  bool SendPart(std::string_view bytes, bool more) {
    const int flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0);
    int sent = 0;
    do {
      sent = zmq_send(socket_.handle(), bytes.data(), bytes.size(), flags);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
  }

  zmq::context_t context_;
  zmq::socket_t socket_;
  std::string endpoint_;
};

}  // namespace

Result<std::unique_ptr<ClientTransport>> MakeZmqClientTransport(
    const ClientTransportOptions& options) {
  auto transport = std::make_unique<ZmqClientTransport>();
  RETURN_IF_ERROR(transport->Bind(options));
  return std::unique_ptr<ClientTransport>(std::move(transport));
}

}  // namespace echelon
