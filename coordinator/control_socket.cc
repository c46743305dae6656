#include "coordinator/control_socket.h"

#include <zmq.hpp>

#include "common/strings.h"

namespace echelon {

namespace {
// A result with all log-probabilities of a 512-row chunk: 512 * 257 * 8 bytes = 1 MiB.
constexpr int64_t kFrameBytesMax = 16 << 20;
constexpr int kHandshakeMs = 5000;
constexpr int kLingerMs = 200;
constexpr int kMalformedPerCall = 64;
}  // namespace

class ControlSocket::Impl {
 public:
  Impl() : socket(context, zmq::socket_type::router) {}
  zmq::context_t context{1};
  zmq::socket_t socket;
  std::string endpoint;
  uint64_t malformed = 0;
};

ControlSocket::ControlSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlSocket::~ControlSocket() = default;
const std::string& ControlSocket::endpoint() const { return impl_->endpoint; }
int ControlSocket::fd() const { return impl_->socket.get(zmq::sockopt::fd); }
uint64_t ControlSocket::malformed() const { return impl_->malformed; }

Result<std::unique_ptr<ControlSocket>> ControlSocket::Bind(const std::string& endpoint) {
  auto impl = std::make_unique<Impl>();
  const bool any_port = endpoint.size() >= 2 && endpoint.substr(endpoint.size() - 2) == ":0";
  try {
    impl->socket.set(zmq::sockopt::maxmsgsize, kFrameBytesMax);
    impl->socket.set(zmq::sockopt::handshake_ivl, kHandshakeMs);
    impl->socket.set(zmq::sockopt::linger, kLingerMs);
    impl->socket.set(zmq::sockopt::router_mandatory, true);  // Send tells that a peer is gone
    impl->socket.bind(any_port ? endpoint.substr(0, endpoint.size() - 1) + "*" : endpoint);
    impl->endpoint = impl->socket.get(zmq::sockopt::last_endpoint);
  } catch (const zmq::error_t& error) {
    return InvalidArgument(StrCat("cannot bind the workers' socket to ", endpoint, ": ",
                                  error.what(), "; set group.endpoint to a free address"),
                           "group.endpoint");
  }
  return std::unique_ptr<ControlSocket>(new ControlSocket(std::move(impl)));
}

std::optional<ControlFrame> ControlSocket::Receive() {
  for (int i = 0; i < kMalformedPerCall; ++i) {
    zmq::message_t peer, head, body, rest;
    if (!impl_->socket.recv(peer, zmq::recv_flags::dontwait)) return std::nullopt;
    int parts = 1;
    for (bool more = peer.more(); more; ++parts) {
      zmq::message_t& part = parts == 1 ? head : parts == 2 ? body : rest;
      (void)impl_->socket.recv(part);  // the parts of one message arrive together
      more = part.more();
    }
    const auto header = DecodeHeader(head.to_string_view());
    if (parts == 3 && header.ok()) {
      return ControlFrame{peer.to_string(), *header, body.to_string()};
    }
    ++impl_->malformed;
  }
  return std::nullopt;  // the rest at the next look
}

bool ControlSocket::Send(const std::string& peer, const ControlHeader& header,
                         const std::string& body) {
  const std::string head = EncodeHeader(header);
  try {
    // ROUTER_MANDATORY: a peer that is gone is EHOSTUNREACH, a full queue is EAGAIN (no value).
    if (!impl_->socket.send(zmq::buffer(peer),
                            zmq::send_flags::sndmore | zmq::send_flags::dontwait)) {
      return true;
    }
    (void)impl_->socket.send(zmq::buffer(head), zmq::send_flags::sndmore);
    (void)impl_->socket.send(zmq::buffer(body), zmq::send_flags::none);
    return true;
  } catch (const zmq::error_t&) {
    return false;
  }
}

}  // namespace echelon
