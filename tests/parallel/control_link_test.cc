// A rank's control link against a played coordinator: a ROUTER socket in the test.

#include "worker/control_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <optional>
#include <thread>
#include <zmq.hpp>

#include "common/network.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

class PlayedCoordinator {
 public:
  PlayedCoordinator() : socket_(context_, zmq::socket_type::router) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.bind("tcp://127.0.0.1:*");
  }
  std::string endpoint() const { return socket_.get(zmq::sockopt::last_endpoint); }

  struct Frame {
    ControlHeader header;
    std::string body;
  };
  // The next frame of this type within `timeout_ms`; others are dropped.
  std::optional<Frame> Next(ControlType type, int timeout_ms = 3000) {
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
    while (Clock::now() < deadline) {
      zmq::message_t peer, head, body;
      if (!socket_.recv(peer, zmq::recv_flags::dontwait)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        continue;
      }
      (void)socket_.recv(head);
      (void)socket_.recv(body);
      peer_ = peer.to_string();
      const auto header = DecodeHeader(head.to_string_view());
      EXPECT_TRUE(header.ok());
      if (header.ok() && header->type == type) return Frame{*header, body.to_string()};
    }
    return std::nullopt;
  }
  void Send(ControlType type, uint64_t epoch, uint32_t rank, const std::string& body) {
    SendParts({EncodeHeader({type, epoch, rank}), body});
  }
  void SendParts(const std::vector<std::string>& parts) {
    socket_.send(zmq::buffer(peer_), zmq::send_flags::sndmore);
    for (size_t i = 0; i < parts.size(); ++i) {
      socket_.send(zmq::buffer(parts[i]),
                   i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
  std::string peer_;
};

class ControlLinkTest : public ::testing::Test {
 protected:
  std::unique_ptr<ControlLink> Connect(uint64_t epoch = 5, int64_t join_timeout_ms = 10'000) {
    LinkOptions options;
    options.coordinator = coordinator_.endpoint();
    options.epoch = epoch;
    options.rank = 2;
    options.world = 4;
    options.join_timeout_ms = join_timeout_ms;
    auto link = ControlLink::Connect(options, logger_);
    EXPECT_TRUE(link.ok());
    return std::move(*link);
  }
  // Joined, with the coordinator's configuration taken.
  std::unique_ptr<ControlLink> Join() {
    auto link = Connect();
    EXPECT_TRUE(coordinator_.Next(ControlType::kJoin));
    coordinator_.Send(ControlType::kWelcome, 5, 2, Encode(WelcomeMessage{"x: 1"}));
    EXPECT_EQ(*link->AwaitWelcome(), "x: 1");
    return link;
  }

  Logger logger_{"worker 2"};
  PlayedCoordinator coordinator_;
};

TEST_F(ControlLinkTest, JoinsWithAllTheHandshakeNeeds) {
  const auto link = Connect();
  const auto frame = coordinator_.Next(ControlType::kJoin);
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.epoch, 5u);
  EXPECT_EQ(frame->header.rank, 2u);
  const auto join = DecodeJoin(frame->body);
  ASSERT_TRUE(join.ok());
  EXPECT_EQ(join->protocol, kControlProtocolVersion);
  EXPECT_EQ(join->world, 4u);
  EXPECT_EQ(join->pid, static_cast<uint64_t>(getpid()));
  EXPECT_EQ(join->build, BuildId());
  EXPECT_EQ(join->host, HostName());
  EXPECT_EQ(join->interface, "127.0.0.1 (lo)");
  EXPECT_TRUE(coordinator_.Next(ControlType::kJoin)) << "again, until it is answered";
}

TEST_F(ControlLinkTest, HandsOnTheCoordinatorsRefusal) {
  const auto link = Connect();
  ASSERT_TRUE(coordinator_.Next(ControlType::kJoin));
  coordinator_.Send(ControlType::kRefuse, 5, 2, Encode(RefuseMessage{"is build 7"}));
  const auto config = link->AwaitWelcome();
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(config.error().message, HasSubstr("refused this rank: is build 7"));
}

TEST_F(ControlLinkTest, GivesUpWhenNobodyLetsItJoin) {
  const auto link = Connect(5, 300);
  const auto config = link->AwaitWelcome();
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(config.error().message, HasSubstr("within 300 ms"));
}

TEST_F(ControlLinkTest, TakesTheEpochThatTheWelcomeNames) {
  const auto link = Connect(0);
  ASSERT_EQ(coordinator_.Next(ControlType::kJoin)->header.epoch, 0u);
  coordinator_.Send(ControlType::kWelcome, 9, 2, Encode(WelcomeMessage{"x: 1"}));
  ASSERT_TRUE(link->AwaitWelcome().ok());
  link->SendProgress({1, 2});
  EXPECT_EQ(coordinator_.Next(ControlType::kProgress)->header.epoch, 9u);
}

TEST_F(ControlLinkTest, DeliversPlansInOrderAndNothingOfAnotherEpochOrRank) {
  const auto link = Join();
  EXPECT_EQ(link->NextEvent(0).kind, LinkEvent::kNone);
  const std::string head = EncodeHeader({ControlType::kPlan, 5, 2});
  coordinator_.Send(ControlType::kPlan, 4, 2, "old epoch");
  coordinator_.Send(ControlType::kPlan, 6, 2, "newer epoch, to which this rank was never let in");
  coordinator_.Send(ControlType::kPlan, 5, 1, "another rank");
  coordinator_.SendParts({head});
  coordinator_.SendParts({head, "a", "b"});
  coordinator_.SendParts({head.substr(0, 23), "short header"});
  coordinator_.SendParts({"", ""});
  coordinator_.Send(ControlType::kPlan, 5, 2, "first");
  coordinator_.Send(ControlType::kPlan, 5, 2, "second");
  coordinator_.Send(ControlType::kShutdown, 5, 2, "");
  LinkEvent event = link->NextEvent(3000);
  EXPECT_EQ(event.plan, "first");
  EXPECT_EQ(link->NextEvent(3000).plan, "second");
  EXPECT_EQ(link->NextEvent(3000).kind, LinkEvent::kShutdown);
  EXPECT_EQ(link->NextEvent(0).kind, LinkEvent::kNone);
}

TEST_F(ControlLinkTest, SendsHeartbeatsResultsAndItsLastWord) {
  auto link = Join();
  link->StartLease(50, 60'000);
  EXPECT_TRUE(coordinator_.Next(ControlType::kHeartbeat, 1000));
  EXPECT_EQ(coordinator_.Next(ControlType::kHeartbeat, 1000)->body, "");
  link->SetHeartbeat([] { return HeartbeatMessage{77, {1}}; });
  (void)coordinator_.Next(ControlType::kHeartbeat, 1000);  // perhaps on its way before
  const auto heartbeat = DecodeHeartbeat(coordinator_.Next(ControlType::kHeartbeat, 1000)->body);
  ASSERT_TRUE(heartbeat.ok());
  EXPECT_EQ(heartbeat->waited_ms, 77u);
  EXPECT_EQ(heartbeat->awaited, std::vector<uint32_t>{1});
  StepResult result;
  result.step_id = 3;
  link->SendResult(result);
  EXPECT_EQ(DecodeResult(coordinator_.Next(ControlType::kResult)->body)->step_id, 3u);
  Error error = InternalError("page 7 is gone");
  error.rank = 2;
  link->SendFailure(error);
  link->Close();  // at once: what was queued must still leave
  const auto frame = coordinator_.Next(ControlType::kFailure);
  ASSERT_TRUE(frame);
  EXPECT_EQ(DecodeFailure(frame->body)->error.message, "page 7 is gone");
}

TEST_F(ControlLinkTest, EndsTheProcessWhenTheLeaseRunsOut) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        auto link = Join();
        link->StartLease(50, 400);
        std::this_thread::sleep_for(std::chrono::seconds(5));  // the executor, stuck in a step
      },
      ::testing::ExitedWithCode(kExitLostCoordinator), "no word from the coordinator");
}

TEST_F(ControlLinkTest, KeepsTheLeaseWhileHeartbeatsCome) {
  auto link = Join();
  link->StartLease(50, 400);
  for (int i = 0; i < 10; ++i) {
    coordinator_.Send(ControlType::kHeartbeat, 5, 2, "");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  SUCCEED() << "still alive after 1 s";
}

// Stopped for longer than its lease, then continued, with a coordinator that never stopped talking:
// what lies in the socket by then must count before the lease does.
TEST_F(ControlLinkTest, APauseLongerThanTheLeaseIsForgivenWhenTheCoordinatorIsThere) {
  const pid_t rank = fork();
  if (rank == 0) {
    LinkOptions options;
    options.coordinator = coordinator_.endpoint();
    options.epoch = 5;
    options.rank = 2;
    options.world = 4;
    const Logger logger("worker 2");
    auto link = ControlLink::Connect(options, logger);
    if (!link.ok() || !(*link)->AwaitWelcome().ok()) _exit(1);
    (*link)->StartLease(50, 400);
    (*link)->SendProgress({1, 1});
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    _exit(0);
  }
  ASSERT_TRUE(coordinator_.Next(ControlType::kJoin));
  coordinator_.Send(ControlType::kWelcome, 5, 2, Encode(WelcomeMessage{"x: 1"}));
  ASSERT_TRUE(coordinator_.Next(ControlType::kProgress));
  int status = 0;
  for (int turn = 0; waitpid(rank, &status, WNOHANG) == 0; ++turn) {
    if (turn % 40 == 5) kill(rank, SIGSTOP);
    if (turn % 40 == 25) kill(rank, SIGCONT);  // 1 s later
    coordinator_.Send(ControlType::kHeartbeat, 5, 2, "");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(ControlLink, RefusesWhatIsNoEndpoint) {
  const Logger logger("worker");
  LinkOptions options;
  options.coordinator = "tcp:/x";
  EXPECT_FALSE(ControlLink::Connect(options, logger).ok());
}

}  // namespace
}  // namespace echelon
