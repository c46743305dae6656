// The real socket, with real peers: what the frontend's fakes claim about ZeroMQ.

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <thread>
#include <zmq.hpp>

#include "common/strings.h"
#include "coordinator/client_transport.h"

namespace echelon {
namespace {

class TransportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto transport = MakeZmqClientTransport({"tcp://127.0.0.1:*", 1000});
    ASSERT_TRUE(transport.ok()) << transport.error().message;
    transport_ = std::move(transport).value();
  }
  zmq::socket_t Client() {
    zmq::socket_t client(context_, zmq::socket_type::dealer);
    client.set(zmq::sockopt::linger, 0);
    client.connect(transport_->endpoint());
    return client;
  }
  static void Send(zmq::socket_t& socket, const std::vector<std::string>& parts) {
    for (size_t i = 0; i < parts.size(); ++i) {
      socket.send(zmq::buffer(parts[i]),
                  i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  // Waits for a message up to `ms`.
  bool Receive(ClientMessage& message, int ms = 3000) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (std::chrono::steady_clock::now() < until) {
      if (transport_->Receive(message)) return true;
      pollfd fd = {transport_->wake_fd(), POLLIN, 0};
      if (!transport_->HasInput()) poll(&fd, 1, 20);
    }
    return false;
  }
  zmq::context_t context_;
  std::unique_ptr<ClientTransport> transport_;
};

TEST_F(TransportTest, BoundPortIsReported) {
  EXPECT_EQ(transport_->endpoint().rfind("tcp://127.0.0.1:", 0), 0u);
  EXPECT_EQ(transport_->endpoint().find('*'), std::string::npos);
}

TEST_F(TransportTest, ThereAndBack) {
  zmq::socket_t client = Client();
  Send(client, {"echelon/1", "ping", "", "{}"});
  ClientMessage message;
  ASSERT_TRUE(Receive(message));
  EXPECT_EQ(message.part_count, 4u);
  EXPECT_EQ(message.parts, (std::vector<std::string>{"echelon/1", "ping", "", "{}"}));
  EXPECT_FALSE(transport_->Receive(message));
  EXPECT_EQ(transport_->Send(message.identity.empty() ? "x" : "x", {"a"}), SendResult::kGone);
}

TEST_F(TransportTest, ManyPartsAreCountedNotKept) {
  zmq::socket_t client = Client();
  Send(client, std::vector<std::string>(1000, "p"));
  ClientMessage message;
  ASSERT_TRUE(Receive(message));
  EXPECT_EQ(message.part_count, 1000u);
  EXPECT_EQ(message.parts.size(), kClientPartsKept);
}

TEST_F(TransportTest, AnOversizedPartDropsThePeerAndNobodyElse) {
  zmq::socket_t bad = Client();
  zmq::socket_t good = Client();
  Send(bad, {"echelon/1", "submit", "r", std::string(1001, 'x')});
  Send(good, {"echelon/1", "submit", "r", std::string(1000, 'x')});
  ClientMessage message;
  ASSERT_TRUE(Receive(message));
  EXPECT_EQ(message.parts.at(3).size(), 1000u);
  EXPECT_FALSE(Receive(message, 200));
}

TEST_F(TransportTest, APeerThatDoesNotReadIsFullAndAnotherIsNot) {
  zmq::socket_t slow(context_, zmq::socket_type::dealer);
  slow.set(zmq::sockopt::rcvhwm, 1);
  slow.set(zmq::sockopt::rcvbuf, 4096);
  slow.set(zmq::sockopt::linger, 0);
  slow.connect(transport_->endpoint());
  zmq::socket_t quick = Client();
  Send(slow, {"slow"});
  Send(quick, {"quick"});
  std::string slow_identity, quick_identity;
  for (int i = 0; i < 2; ++i) {
    ClientMessage message;
    ASSERT_TRUE(Receive(message));
    (message.parts.at(0) == "slow" ? slow_identity : quick_identity) = message.identity;
  }
  const std::string body(100'000, 'x');
  int taken = 0;
  SendResult last = SendResult::kSent;
  while (taken < 10'000 && (last = transport_->Send(slow_identity, {body})) == SendResult::kSent) {
    ++taken;
  }
  EXPECT_EQ(last, SendResult::kFull) << taken;
  EXPECT_EQ(transport_->Send(quick_identity, {"for you"}), SendResult::kSent);
  zmq::message_t got;
  quick.set(zmq::sockopt::rcvtimeo, 3000);
  ASSERT_TRUE(quick.recv(got).has_value());
  EXPECT_EQ(got.to_string(), "for you");
}

TEST_F(TransportTest, APeerThatWentIsGone) {
  std::string identity;
  {
    zmq::socket_t client = Client();
    Send(client, {"hello"});
    ClientMessage message;
    ASSERT_TRUE(Receive(message));
    identity = message.identity;
    EXPECT_EQ(transport_->Send(identity, {"a", "b"}), SendResult::kSent);
  }
  SendResult result = SendResult::kSent;
  for (int i = 0; i < 300 && result != SendResult::kGone; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    result = transport_->Send(identity, {"a"});
  }
  EXPECT_EQ(result, SendResult::kGone);
}

TEST(Transport, AnEndpointThatCannotBeBound) {
  for (const char* bad : {"", "nonsense", "tcp://1.2.3.4:5", "tcp://127.0.0.1:99999999"}) {
    const auto transport = MakeZmqClientTransport({bad, 1000});
    ASSERT_FALSE(transport.ok()) << bad;
    EXPECT_EQ(transport.error().field, "frontend.endpoint");
  }
}

}  // namespace
}  // namespace echelon
