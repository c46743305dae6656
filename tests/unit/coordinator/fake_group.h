#pragma once
// Played ranks and a played launcher for the worker group: real sockets, no processes, a clock that
// the test moves. One thread.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "common/clock.h"
#include "common/control.h"
#include "common/log.h"
#include "coordinator/worker_group.h"

namespace echelon {

// What the test makes the launcher do, and what the group did to it.
struct LauncherScript {
  std::vector<LaunchCommand> launches;
  std::vector<int> signals;
  std::optional<std::string> exit;  // "mpirun ended with status 1"
  std::vector<int> dead_ranks;
  int dies_of = SIGTERM;  // SIGKILL: survives SIGTERM
  bool gone = false;
};

class FakeProcesses final : public GroupProcesses {
 public:
  explicit FakeProcesses(LauncherScript& script) : script_(script) {}
  Status Launch(const LaunchCommand& command, const std::string&) override {
    script_.launches.push_back(command);
    script_.exit.reset();
    script_.dead_ranks.clear();
    script_.gone = false;
    return {};
  }
  void Track(int, uint64_t) override {}
  std::vector<int> DeadRanks() override { return script_.dead_ranks; }
  std::optional<std::string> LauncherExit() override { return script_.exit; }
  void Signal(int signal) override {
    script_.signals.push_back(signal);
    if (signal == script_.dies_of || signal == SIGKILL) script_.gone = true;
  }
  bool Gone() override { return script_.gone; }

 private:
  LauncherScript& script_;
};

class FakeRank {
 public:
  FakeRank(zmq::context_t& context, const std::string& endpoint, uint64_t epoch, uint32_t rank)
      : epoch_(epoch), rank_(rank), socket_(context, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.connect(endpoint);
  }

  JoinMessage join{.world = 2, .pid = 1000, .build = BuildId(), .host = "h", .interface = "lo"};
  ReadyMessage ready{.weights_fingerprint = "w1",
                     .numerics_fingerprint = "n1",
                     .backend = "fake",
                     .weight_bytes = 10,
                     .kv_bytes = 20,
                     .kv_pages = 30,
                     .page_tokens = 16,
                     .context_max = 512,
                     .vocab_size = 100};

  void Join() { Send(ControlType::kJoin, Encode(join)); }
  void Ready() { Send(ControlType::kReady, Encode(ready)); }
  void Send(ControlType type, const std::string& body) {
    SendParts({EncodeHeader({type, epoch_, rank_}), body});
  }
  void SendParts(const std::vector<std::string>& parts) {
    for (size_t i = 0; i < parts.size(); ++i) {
      socket_.send(zmq::buffer(parts[i]),
                   i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  // The next frame that is no heartbeat, if one is there.
  std::optional<std::pair<ControlHeader, std::string>> Receive() {
    for (;;) {
      zmq::message_t head, body;
      if (!socket_.recv(head, zmq::recv_flags::dontwait)) return std::nullopt;
      (void)socket_.recv(body);
      const auto header = DecodeHeader(head.to_string_view());
      if (!header.ok() || header->type == ControlType::kHeartbeat) continue;
      return std::make_pair(*header, body.to_string());
    }
  }
  void Close() { socket_.close(); }
  uint64_t epoch_;
  uint32_t rank_;

 private:
  zmq::socket_t socket_;
};

class GroupTest : public ::testing::Test {
 protected:
  GroupTest() {
    options_.world = 2;
    options_.config_yaml = "model: {path: m}\n";
    options_.worker_program = "/bin/echelon-worker";
    options_.settings.endpoint = "tcp://127.0.0.1:*";
  }

  void Make() {
    auto socket = ControlSocket::Bind(options_.settings.endpoint);
    ASSERT_TRUE(socket.ok()) << socket.error().message;
    group_ = std::make_unique<ManagedGroup>(options_, std::vector<std::string>{"n1", "n2"},
                                            std::move(*socket),
                                            std::make_unique<FakeProcesses>(script_), clock_, log_);
    ASSERT_TRUE(group_->Start().ok());
  }
  std::unique_ptr<FakeRank> MakeRank(uint32_t rank) {
    const uint64_t epoch = options_.settings.launcher == "external" ? 0 : group_->epoch();
    auto made = std::make_unique<FakeRank>(context_, group_->endpoint(), epoch, rank);
    made->join.world = options_.world;
    made->join.pid += rank;
    return made;
  }
  void MakeRanks() {
    ranks_.clear();
    for (int rank = 0; rank < options_.world; ++rank) ranks_.push_back(MakeRank(rank));
  }
  // Ticks for at most two seconds until `done`; the clock stands still.
  bool Until(const std::function<bool()>& done) {
    for (int i = 0; i < 2000; ++i) {
      while (group_->Tick()) {
      }
      if (done()) return true;
      usleep(1000);
    }
    return false;
  }
  bool UntilState(GroupState state) {
    return Until([&] { return group_->state() == state; });
  }
  // Moves the clock in steps smaller than what the group would take for a pause of its own, while
  // the ranks in `alive` keep talking.
  void Pass(int64_t ms, const std::vector<int>& alive = {}) {
    for (int64_t passed = 0; passed < ms; passed += 500) {
      clock_.AdvanceUs(500'000);
      for (const int rank : alive) ranks_[rank]->Send(ControlType::kHeartbeat, "");
      const GroupState before = group_->state();
      for (int waited_ms = 0; waited_ms < 500; ++waited_ms) {  // sockets take real time
        while (group_->Tick()) {
        }
        if (group_->state() != before || AllHeard(alive)) break;
        usleep(1000);
      }
    }
  }
  bool AllHeard(const std::vector<int>& ranks) const {
    return std::ranges::all_of(
        ranks, [&](int rank) { return group_->ranks()[rank].last_heard_us == clock_.NowUs(); });
  }
  void BringUp() {
    MakeRanks();
    for (auto& rank : ranks_) rank->Join();
    ASSERT_TRUE(UntilState(GroupState::kLoading));
    for (auto& rank : ranks_) rank->Ready();
    ASSERT_TRUE(UntilState(GroupState::kReady));
  }
  StepPlan Plan(uint64_t step) {
    StepPlan plan;
    plan.step_id = step;
    plan.epoch = group_->epoch();
    return plan;
  }
  std::string ResultBody(uint64_t step, uint64_t epoch) {
    StepResult result;
    result.step_id = step;
    result.epoch = epoch;
    return EncodeResult(result);
  }
  bool StepWorks(uint64_t step) {
    if (!group_->SendPlan(Plan(step)).ok()) return false;
    ranks_.back()->Send(ControlType::kResult, ResultBody(step, group_->epoch()));
    std::vector<StepResult> results;
    return Until([&] { return !(results = group_->TakeResults()).empty(); }) &&
           results[0].step_id == step;
  }

  WorkerGroupOptions options_;
  ManualClock clock_;
  Logger log_{"test"};
  LauncherScript script_;
  zmq::context_t context_;
  std::unique_ptr<ManagedGroup> group_;
  std::vector<std::unique_ptr<FakeRank>> ranks_;
};

}  // namespace echelon
