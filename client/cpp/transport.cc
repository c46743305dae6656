#include "client/cpp/transport.h"

#include <array>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>
#include <zmq.hpp>
#include <zmq_addon.hpp>

#include "common/strings.h"

namespace echelon {

namespace {

// A half-open connection (a host that vanished) is noticed after this, on ZeroMQ's own heartbeat.
constexpr int kHeartbeatIntervalMs = 2'000;
constexpr int kHeartbeatTimeoutMs = 6'000;

class ZmqTransport final : public Transport {
 public:
  explicit ZmqTransport(std::string endpoint) : endpoint_(std::move(endpoint)) {}

  Status Reopen() override {
    try {
      Open();
      return Status();
    } catch (const zmq::error_t& error) {
      return InvalidArgument(StrCat("cannot connect to ", endpoint_, ": ", error.what(),
                                    "; an endpoint looks like tcp://host:port or ipc:///path"));
    }
  }

  Status Send(const Frame& frame) override {
    const std::array<zmq::const_buffer, 4> parts = {
        zmq::const_buffer(kClientProtocol, std::strlen(kClientProtocol)), zmq::buffer(frame.type),
        zmq::buffer(frame.id), zmq::buffer(frame.body)};
    try {
      if (zmq::send_multipart(dealer_, parts, zmq::send_flags::dontwait)) return Status();
    } catch (const zmq::error_t& error) {
      return InternalError(StrCat("sending to ", endpoint_, ": ", error.what()));
    }
    return Unavailable(StrCat("the queue to ", endpoint_, " is full; is the service running?"));
  }

  Result<Polled> Poll(int64_t timeout_ms) override {
    Polled polled;
    try {
      std::array<zmq::pollitem_t, 2> items = {zmq::pollitem_t{dealer_.handle(), 0, ZMQ_POLLIN, 0},
                                              zmq::pollitem_t{monitor_.handle(), 0, ZMQ_POLLIN, 0}};
      zmq::poll(items, std::chrono::milliseconds(timeout_ms));
      // Frames that arrived before the connection broke come first.
      if (items[0].revents != 0) {
        ASSIGN_OR_RETURN(polled.frame, Receive());
      } else if (items[1].revents != 0) {
        polled.disconnected = ReceiveDisconnect();
      }
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) {
        return InternalError(StrCat("receiving from ", endpoint_, ": ", error.what()));
      }
    }
    return polled;
  }

 private:
  void Open() {
    monitor_ = zmq::socket_t();
    dealer_ = zmq::socket_t(context_, zmq::socket_type::dealer);
    dealer_.set(zmq::sockopt::linger, 0);
    dealer_.set(zmq::sockopt::maxmsgsize, kAnswerBytesMax);
    dealer_.set(zmq::sockopt::heartbeat_ivl, kHeartbeatIntervalMs);
    dealer_.set(zmq::sockopt::heartbeat_timeout, kHeartbeatTimeoutMs);
    const std::string monitor = StrCat("inproc://monitor-", ++opened_);
    if (zmq_socket_monitor(dealer_.handle(), monitor.c_str(), ZMQ_EVENT_DISCONNECTED) != 0) {
      throw zmq::error_t();
    }
    monitor_ = zmq::socket_t(context_, zmq::socket_type::pair);
    monitor_.set(zmq::sockopt::linger, 0);
    monitor_.connect(monitor);
    dealer_.connect(endpoint_);
  }

  Result<std::optional<Frame>> Receive() {
    std::vector<zmq::message_t> parts;
    if (!zmq::recv_multipart(dealer_, std::back_inserter(parts), zmq::recv_flags::dontwait)) {
      return std::optional<Frame>();
    }
    if (parts.size() != 4 || parts[0].to_string_view() != kClientProtocol) {
      return Corrupt(StrCat("the answer from ", endpoint_, " is not of protocol ", kClientProtocol,
                            ": is that an Echelon service of this version?"));
    }
    return std::optional<Frame>(
        Frame{parts[1].to_string(), parts[2].to_string(), parts[3].to_string()});
  }

  // A monitor event is a number in one part and the address in another.
  bool ReceiveDisconnect() {
    std::vector<zmq::message_t> parts;
    return zmq::recv_multipart(monitor_, std::back_inserter(parts), zmq::recv_flags::dontwait)
        .has_value();
  }

  std::string endpoint_;
  zmq::context_t context_{1};
  zmq::socket_t dealer_;
  zmq::socket_t monitor_;
  int opened_ = 0;
};

}  // namespace

Result<std::unique_ptr<Transport>> OpenTransport(const std::string& endpoint) {
  auto transport = std::make_unique<ZmqTransport>(endpoint);
  RETURN_IF_ERROR(transport->Reopen());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace echelon
