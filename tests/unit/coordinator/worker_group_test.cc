#include "coordinator/worker_group.h"

#include <gmock/gmock.h>

#include "fake_group.h"

namespace echelon {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using WorkerGroupTest = GroupTest;

TEST_F(WorkerGroupTest, JoinsLoadsAndRunsPlans) {
  Make();
  MakeRanks();
  ranks_[0]->Join();
  EXPECT_TRUE(Until([&] { return group_->ranks()[0].joined; }));
  EXPECT_FALSE(ranks_[0]->Receive()) << "nobody is welcome before all have joined";
  ranks_[1]->Join();
  ASSERT_TRUE(UntilState(GroupState::kLoading));
  for (auto& rank : ranks_) {
    std::optional<std::pair<ControlHeader, std::string>> frame;
    ASSERT_TRUE(Until([&] { return (frame = rank->Receive()).has_value(); }));
    EXPECT_EQ(frame->first.type, ControlType::kWelcome);
    EXPECT_EQ(DecodeWelcome(frame->second)->config_yaml, options_.config_yaml);
  }
  EXPECT_FALSE(group_->SendPlan(Plan(1)).ok());
  ranks_[1]->Send(ControlType::kProgress, Encode(ProgressMessage{30, 100}));
  EXPECT_TRUE(Until([&] { return group_->ranks()[1].bytes_done == 30; }));
  for (auto& rank : ranks_) rank->Ready();
  ASSERT_TRUE(UntilState(GroupState::kReady));
  EXPECT_EQ(group_->capacity().kv_pages, 30u);
  EXPECT_EQ(group_->weights_fingerprint(), "w1");
  EXPECT_TRUE(StepWorks(1));
  EXPECT_TRUE(StepWorks(2));
  const auto plan = ranks_[0]->Receive();
  ASSERT_TRUE(plan);
  EXPECT_EQ(DecodePlan(plan->second)->step_id, 1u);
  EXPECT_FALSE(ranks_[1]->Receive()) << "plans go to the lead alone";
}

TEST_F(WorkerGroupTest, SaysEveryFiveSecondsWhoIsMissing) {
  Make();
  MakeRanks();
  ranks_[1]->Join();
  EXPECT_TRUE(Until([&] { return group_->ranks()[1].joined; }));
  ::testing::internal::CaptureStderr();
  Pass(10'000, {1});
  const std::string log = ::testing::internal::GetCapturedStderr();
  const std::string line = "1 of 2 ranks joined; not yet: rank 0 on host n1";
  EXPECT_THAT(log, HasSubstr("joining for 5 s: " + line));
  EXPECT_THAT(log, HasSubstr("joining for 10 s: " + line));
  EXPECT_THAT(log, Not(HasSubstr("joining for 7 s")));
}

TEST_F(WorkerGroupTest, LaunchesAgainWhenARankDoesNotJoinInTime) {
  options_.settings.join_deadline_ms = 8000;
  Make();
  MakeRanks();
  ranks_[0]->Join();
  EXPECT_TRUE(Until([&] { return group_->ranks()[0].joined; }));
  Pass(9000, {0});
  const auto lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_THAT(lost[0].error.message, HasSubstr("not yet: rank 1 on host n2"));
  Pass(6000);
  EXPECT_EQ(group_->epoch(), 2u);
  EXPECT_EQ(script_.launches.size(), 2u);
}

TEST_F(WorkerGroupTest, RefusesAnotherBuildAndGivesUp) {
  Make();
  MakeRanks();
  ranks_[1]->join.build = "0.0.9+other";
  ranks_[1]->Join();
  ASSERT_TRUE(UntilState(GroupState::kFailed));
  EXPECT_THAT(group_->failure()->message, HasSubstr("rank 1 on host h: is build 0.0.9+other"));
  EXPECT_EQ(group_->failure()->rank, 1);
  std::optional<std::pair<ControlHeader, std::string>> frame;
  ASSERT_TRUE(Until([&] { return (frame = ranks_[1]->Receive()).has_value(); }));
  EXPECT_EQ(frame->first.type, ControlType::kRefuse);
  EXPECT_THAT(DecodeRefuse(frame->second)->reason, HasSubstr("install the same build"));
  Pass(1000);
  EXPECT_THAT(script_.signals, Contains(SIGTERM));
  group_->Shutdown();
  EXPECT_TRUE(UntilState(GroupState::kStopped)) << "the program need not wait for it";
  EXPECT_THAT(group_->failure()->message, HasSubstr("other")) << "the reason stays";
}

TEST_F(WorkerGroupTest, RefusesAnotherProtocolAndAnotherWorld) {
  for (const bool protocol : {true, false}) {
    Make();
    MakeRanks();
    if (protocol) {
      ranks_[0]->join.protocol = 99;
    } else {
      ranks_[0]->join.world = 3;
    }
    ranks_[0]->Join();
    ASSERT_TRUE(UntilState(GroupState::kFailed));
    EXPECT_THAT(group_->failure()->message,
                HasSubstr(protocol ? "control protocol 99" : "one of 3 ranks, the layout has 2"));
  }
}

TEST_F(WorkerGroupTest, RefusesASecondProcessForARankAndLivesOn) {
  Make();
  BringUp();
  const auto impostor = MakeRank(1);
  impostor->join.pid = 4711;
  impostor->Join();
  std::optional<std::pair<ControlHeader, std::string>> frame;
  ASSERT_TRUE(Until([&] { return (frame = impostor->Receive()).has_value(); }));
  EXPECT_EQ(frame->first.type, ControlType::kRefuse);
  EXPECT_THAT(DecodeRefuse(frame->second)->reason, HasSubstr("is this rank already"));
  EXPECT_EQ(group_->state(), GroupState::kReady);
  EXPECT_TRUE(StepWorks(1));
}

TEST_F(WorkerGroupTest, RefusesRanksWhoseWeightsDiffer) {
  Make();
  MakeRanks();
  for (auto& rank : ranks_) rank->Join();
  ASSERT_TRUE(UntilState(GroupState::kLoading));
  ranks_[0]->Ready();
  EXPECT_TRUE(Until([&] { return group_->ranks()[0].ready; }));
  ranks_[1]->ready.weights_fingerprint = "w2";
  ranks_[1]->Ready();
  ASSERT_TRUE(UntilState(GroupState::kFailed));
  EXPECT_THAT(group_->failure()->message,
              HasSubstr("rank 1 on host h has weights w2, rank 0 on host h has w1"));
}

TEST_F(WorkerGroupTest, RefusesARelaunchWithOtherNumerics) {
  Make();
  BringUp();
  script_.dead_ranks = {0};
  Pass(1000, {0, 1});
  ranks_.clear();
  Pass(6000);
  ASSERT_EQ(group_->epoch(), 2u);
  MakeRanks();
  for (auto& rank : ranks_) {
    rank->ready.numerics_fingerprint = "n2";
    rank->Join();
  }
  ASSERT_TRUE(UntilState(GroupState::kLoading));
  for (auto& rank : ranks_) rank->Ready();
  ASSERT_TRUE(UntilState(GroupState::kFailed));
  EXPECT_THAT(group_->failure()->message, HasSubstr("before it was w1 and n1"));
}

TEST_F(WorkerGroupTest, DropsFramesOfAnOlderEpoch) {
  Make();
  BringUp();
  const auto old_ranks = std::move(ranks_);
  ASSERT_TRUE(group_->SendPlan(Plan(1)).ok());
  script_.dead_ranks = {1};
  Pass(8000);
  ASSERT_EQ(group_->epoch(), 2u);
  EXPECT_EQ(group_->TakeLost().size(), 1u);
  BringUp();
  ASSERT_TRUE(group_->SendPlan(Plan(1)).ok());
  const uint64_t stale = group_->counters().stale_frames;
  // The old lead wakes up and delivers: the same step id, another epoch.
  old_ranks[0]->Send(ControlType::kResult, ResultBody(1, 1));
  old_ranks[0]->Send(ControlType::kHeartbeat, "");
  old_ranks[1]->Send(ControlType::kFailure, Encode(FailureMessage{InternalError("late")}));
  old_ranks[1]->Join();
  EXPECT_TRUE(Until([&] { return group_->counters().stale_frames == stale + 4; }));
  EXPECT_TRUE(group_->TakeResults().empty());
  EXPECT_EQ(group_->state(), GroupState::kReady);
  // A frame that claims the present epoch, from a peer that never joined it.
  old_ranks[0]->epoch_ = 2;
  old_ranks[0]->Send(ControlType::kResult, ResultBody(1, 2));
  EXPECT_TRUE(Until([&] { return group_->counters().malformed_frames > 0; }));
  EXPECT_TRUE(group_->TakeResults().empty());
}

TEST_F(WorkerGroupTest, ADistrustedEpochEndsAsIfARankHadBeenLost) {
  Make();
  BringUp();
  ASSERT_TRUE(group_->SendPlan(Plan(1)).ok());
  group_->Distrust(InternalError("a result that broke the contract"));
  EXPECT_EQ(group_->state(), GroupState::kRelaunching);
  group_->Distrust(InternalError("and another of the same epoch"));
  const auto lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_THAT(lost[0].error.message, HasSubstr("broke the contract"));
  Pass(8000);
  EXPECT_EQ(group_->epoch(), 2u);
}

TEST_F(WorkerGroupTest, NamesTheRankThatIsSilent) {
  Make();
  BringUp();
  Pass(2500, {0});
  EXPECT_EQ(group_->state(), GroupState::kReady);
  Pass(1500, {0});
  const auto lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].epoch, 1u);
  EXPECT_EQ(lost[0].error.rank, 1);
  EXPECT_EQ(lost[0].error.host, "h");
  EXPECT_THAT(lost[0].error.message, HasSubstr("no heartbeat for"));
  EXPECT_FALSE(group_->SendPlan(Plan(1)).ok());
}

TEST_F(WorkerGroupTest, ForgivesSilenceWhileItWasStoppedItself) {
  Make();
  BringUp();
  ASSERT_TRUE(StepWorks(1));
  ASSERT_TRUE(group_->SendPlan(Plan(2)).ok());
  clock_.AdvanceUs(60'000'000);  // one jump: this process did not run
  while (group_->Tick()) {
  }
  EXPECT_EQ(group_->state(), GroupState::kReady);
  Pass(2000, {0, 1});
  EXPECT_EQ(group_->state(), GroupState::kReady);
}

TEST_F(WorkerGroupTest, SeesAClosedConnectionWithinAHeartbeat) {
  Make();
  BringUp();
  ranks_[1]->Close();
  usleep(50'000);
  Pass(1000, {0});
  const auto lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].error.rank, 1);
  EXPECT_THAT(lost[0].error.message, HasSubstr("connection closed"));
}

TEST_F(WorkerGroupTest, NamesAllRanksThatAreFoundDeadTogether) {
  Make();
  BringUp();
  script_.dead_ranks = {0, 1};
  Pass(1000, {0, 1});
  const std::vector<LostGroup> lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].error.rank, 0);
  EXPECT_EQ(lost[0].error.message, "rank 0 on host h: process 1000 died, as did rank 1 on host h");
}

TEST_F(WorkerGroupTest, NamesTheDeviceThatALostRankComputedOn) {
  Make();
  MakeRanks();
  for (auto& rank : ranks_) rank->ready.device = "CUDA device 1 (NVIDIA H200)";
  for (auto& rank : ranks_) rank->Join();
  ASSERT_TRUE(UntilState(GroupState::kLoading));
  for (auto& rank : ranks_) rank->Ready();
  ASSERT_TRUE(UntilState(GroupState::kReady));
  script_.dead_ranks = {1};
  Pass(1000, {0});
  const std::vector<LostGroup> lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].error.message,
            "rank 1 on host h, CUDA device 1 (NVIDIA H200): process 1001 died");
}

TEST_F(WorkerGroupTest, TellsTheRanksOwnReasonRatherThanItsDeath) {
  Make();
  BringUp();
  script_.dead_ranks = {1};
  while (group_->Tick()) {
  }
  ranks_[1]->Send(ControlType::kFailure, Encode(FailureMessage{InternalError("page 7 is gone")}));
  std::vector<LostGroup> lost;
  ASSERT_TRUE(Until([&] { return !(lost = group_->TakeLost()).empty(); }));
  EXPECT_EQ(lost[0].error.message, "rank 1 on host h: page 7 is gone");
  EXPECT_EQ(group_->ranks()[1].last_error->message, lost[0].error.message);
}

TEST_F(WorkerGroupTest, WatchesSteps) {
  Make();
  BringUp();
  ASSERT_TRUE(group_->SendPlan(Plan(1)).ok());
  Pass(119'000, {0, 1});  // the first step may take four times as long
  ASSERT_EQ(group_->state(), GroupState::kReady);
  ranks_[1]->Send(ControlType::kResult, ResultBody(1, 1));
  ASSERT_TRUE(Until([&] { return group_->TakeResults().size() == 1; }));
  ASSERT_TRUE(group_->SendPlan(Plan(2)).ok());
  ASSERT_TRUE(group_->SendPlan(Plan(3)).ok());
  Pass(29'000, {0, 1});
  ranks_[1]->Send(ControlType::kResult, ResultBody(2, 1));
  ASSERT_TRUE(Until([&] { return group_->TakeResults().size() == 1; }));
  Pass(29'000, {0, 1});  // step 3 is counted from the end of step 2
  ASSERT_EQ(group_->state(), GroupState::kReady);
  ranks_[0]->Send(ControlType::kHeartbeat, Encode(HeartbeatMessage{29'500, {1, 99}}));
  ASSERT_TRUE(Until([&] { return !group_->ranks()[0].waits.awaited.empty(); }));
  Pass(2000, {1});
  const auto lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_THAT(lost[0].error.message, HasSubstr("step 3 has had no result"));
  EXPECT_THAT(
      lost[0].error.message,
      HasSubstr(
          "; rank 0 on host h has waited 29500 ms for rank 1 on host h; rank 1 on host h waits "
          "for nobody; rank 0 on host h has not been heard for "));
}

TEST_F(WorkerGroupTest, NamesWhoMayHoldUpTheOthersDevices) {
  options_.settings.step_deadline_ms = 2000;
  Make();
  BringUp();
  ASSERT_TRUE(StepWorks(1));
  ASSERT_TRUE(group_->SendPlan(Plan(2)).ok());
  ranks_[1]->Send(ControlType::kHeartbeat, Encode(HeartbeatMessage{1500, {0}, true}));
  ASSERT_TRUE(Until([&] { return !group_->ranks()[1].waits.awaited.empty(); }));
  Pass(2500, {0});
  const auto lost = group_->TakeLost();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_THAT(lost[0].error.message,
              HasSubstr("; rank 1 on host h has waited 1500 ms for its device, which may wait for "
                        "rank 0 on host h; rank 0 on host h waits for nobody"));
}

TEST_F(WorkerGroupTest, AHeartbeatOfARankThatWaitsNoMoreSaysSo) {
  Make();
  BringUp();
  ranks_[0]->Send(ControlType::kHeartbeat, Encode(HeartbeatMessage{500, {1}}));
  ASSERT_TRUE(Until([&] { return !group_->ranks()[0].waits.awaited.empty(); }));
  ranks_[0]->Send(ControlType::kHeartbeat, "");
  ASSERT_TRUE(Until([&] { return group_->ranks()[0].waits.awaited.empty(); }));
  ranks_[0]->Send(ControlType::kHeartbeat, "12");
  ASSERT_TRUE(Until([&] { return group_->counters().malformed_frames == 1; }));
}

TEST_F(WorkerGroupTest, KillsWhatSurvivesTermAndLaunchesOnlyThen) {
  script_.dies_of = SIGKILL;
  Make();
  BringUp();
  script_.dead_ranks = {0};
  while (group_->Tick()) {
  }
  ranks_.clear();
  usleep(50'000);
  Pass(1500);
  EXPECT_THAT(script_.signals, ElementsAre(SIGTERM));
  EXPECT_EQ(script_.launches.size(), 1u);
  Pass(2000);
  EXPECT_THAT(script_.signals, Contains(SIGKILL));
  Pass(1000);
  EXPECT_EQ(script_.launches.size(), 2u);
  EXPECT_EQ(group_->epoch(), 2u);
}

// A rank on another host whose connection stays open (a broken link would look the same) may be
// alive until its lease has run out: no relaunch before.
TEST_F(WorkerGroupTest, WaitsForTheLeaseOfARankItCannotReach) {
  Make();
  BringUp();
  script_.dead_ranks = {0};
  Pass(4500);
  EXPECT_EQ(group_->state(), GroupState::kRelaunching);
  EXPECT_EQ(script_.launches.size(), 1u);
  Pass(2500);
  EXPECT_EQ(script_.launches.size(), 2u);
}

TEST_F(WorkerGroupTest, TellsRanksThatOthersStartedTheirEpoch) {
  options_.settings.launcher = "external";
  Make();
  EXPECT_TRUE(script_.launches[0].words.empty());
  Pass(100'000);
  EXPECT_EQ(group_->state(), GroupState::kStarting) << "waits as long as it takes";
  MakeRanks();
  for (auto& rank : ranks_) rank->Join();
  ASSERT_TRUE(UntilState(GroupState::kLoading));
  std::optional<std::pair<ControlHeader, std::string>> frame;
  ASSERT_TRUE(Until([&] { return (frame = ranks_[0]->Receive()).has_value(); }));
  EXPECT_EQ(frame->first.type, ControlType::kWelcome);
  EXPECT_EQ(frame->first.epoch, 1u);
}

TEST_F(WorkerGroupTest, ShutsDownByAskingFirst) {
  Make();
  BringUp();
  group_->Shutdown();
  while (group_->Tick()) {
  }
  for (auto& rank : ranks_) {
    std::optional<std::pair<ControlHeader, std::string>> frame;
    ASSERT_TRUE(Until([&] {
      return (frame = rank->Receive()).has_value() && frame->first.type == ControlType::kShutdown;
    }));
  }
  EXPECT_TRUE(script_.signals.empty());
  script_.gone = true;
  ranks_.clear();
  usleep(50'000);
  Pass(1000);
  EXPECT_EQ(group_->state(), GroupState::kStopped);
  EXPECT_TRUE(script_.signals.empty());
}

// List Z of what a peer may send, as far as it concerns this socket: each is dropped and counted,
// and the group serves on.
TEST_F(WorkerGroupTest, DropsMalformedFramesAndServesOn) {
  Make();
  BringUp();
  const auto stranger = MakeRank(0);
  const std::string head = EncodeHeader({ControlType::kHeartbeat, 1, 0});
  std::vector<std::vector<std::string>> frames;
  for (int parts : {1, 3, 4, 32}) frames.emplace_back(parts, head);
  for (size_t size = 0; size < head.size(); ++size) frames.push_back({head.substr(0, size), ""});
  frames.push_back({head + "x", ""});
  for (size_t byte : {0, 4, 20}) {  // magic, type, reserved
    std::string bad = head;
    bad[byte] ^= 0x40;
    frames.push_back({bad, ""});
  }
  for (uint32_t rank : {0u, 1u, 2u, 0x7fffffffu, 0xffffffffu}) {  // not joined from this peer
    frames.push_back({EncodeHeader({ControlType::kHeartbeat, 1, rank}), ""});
    frames.push_back({EncodeHeader({ControlType::kResult, 1, rank}), ResultBody(1, 1)});
  }
  for (const auto& parts : frames) stranger->SendParts(parts);
  uint64_t expected = frames.size();
  // From a real rank: bodies cut at every length, types that only a coordinator sends, a step
  // twice.
  const auto from_rank = [&](ControlType type, const std::string& body) {
    ranks_[1]->Send(type, body);
    ++expected;
  };
  const std::string result = ResultBody(1, 1);
  ASSERT_TRUE(group_->SendPlan(Plan(1)).ok());
  for (size_t size = 0; size < result.size(); ++size) {
    from_rank(ControlType::kResult, result.substr(0, size));
  }
  from_rank(ControlType::kResult, ResultBody(2, 1));
  from_rank(ControlType::kResult, ResultBody(1, 2));
  from_rank(ControlType::kProgress, "1234567");
  from_rank(ControlType::kFailure, "");
  from_rank(ControlType::kReady, "");
  from_rank(ControlType::kJoin, Encode(ranks_[1]->join).substr(3));
  for (const auto type :
       {ControlType::kWelcome, ControlType::kPlan, ControlType::kShutdown, ControlType::kRefuse}) {
    from_rank(type, "");
  }
  EXPECT_TRUE(Until([&] { return group_->counters().malformed_frames >= expected; }));
  EXPECT_EQ(group_->counters().malformed_frames, expected);
  EXPECT_EQ(group_->state(), GroupState::kReady);
  EXPECT_TRUE(group_->TakeResults().empty());
  ranks_[1]->Send(ControlType::kResult, result);
  EXPECT_TRUE(Until([&] { return group_->TakeResults().size() == 1; }));
  EXPECT_TRUE(StepWorks(2));
}

}  // namespace
}  // namespace echelon
