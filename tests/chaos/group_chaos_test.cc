// A real group under mpirun, with real signals: whatever dies or hangs is noticed within its
// deadline, the next epoch answers the same tokens, and no process is left behind.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "common/strings.h"
#include "tests/chaos/chaos_fixture.h"
#include "tests/support/test_models.h"

namespace echelon::testing {
namespace {

using ::testing::HasSubstr;

TEST_F(GroupChaosTest, KillEachRank) {
  Start(ChaosConfig(model_.path()));
  for (int rank : {0, 1}) {
    StrikeAndRecover([&] { kill(driver_->RankPids()[rank], SIGKILL); }, 500);
    // Of ranks found dead together the lowest leads the message.
    EXPECT_THAT(last_error_.message, HasSubstr(StrCat("rank ", rank, " on host ")));
    EXPECT_THAT(last_error_.message, HasSubstr("died"));
  }
  Stop();
}

TEST_F(GroupChaosTest, KillTheLauncher) {
  Start(ChaosConfig(model_.path()));
  StrikeAndRecover([&] { kill(ParentOf(driver_->RankPids()[0]), SIGKILL); }, 500);
  Stop();
}

TEST_F(GroupChaosTest, StopEachRank) {
  const ServiceConfig config = ChaosConfig(model_.path());
  Start(config);
  for (int rank : {0, 1}) {
    StrikeAndRecover([&] { kill(driver_->RankPids()[rank], SIGSTOP); },
                     config.group.heartbeat_timeout_ms + 1000);
    EXPECT_EQ(last_error_.rank, rank);
    EXPECT_THAT(last_error_.message, HasSubstr("no heartbeat"));
  }
  Stop();
}

TEST_F(GroupChaosTest, AShortPauseNeedsNoRelaunch) {
  const ServiceConfig config = ChaosConfig(model_.path());
  Start(config);
  const pid_t pid = driver_->RankPids()[1];
  const auto answer = driver_->Generate(kPrompt, kTokens, [&](int tokens) {
    if (tokens != 3) return;
    kill(pid, SIGSTOP);
    driver_->Until([] { return false; }, config.group.heartbeat_timeout_ms / 2);
    kill(pid, SIGCONT);
  });
  EXPECT_EQ(answer, expected_);
  EXPECT_EQ(driver_->group().epoch(), 1u);
  EXPECT_TRUE(driver_->TakeLost().empty());
  Stop();
}

// Any rank or the launcher, by any deadly signal, at any token: ECHELON_CHAOS_STRIKES of them (10),
// from ECHELON_CHAOS_SEED (printed).
TEST_F(GroupChaosTest, RandomStrikes) {
  const auto number = [](const char* name, int fallback) {
    const char* text = std::getenv(name);
    return text ? std::atoi(text) : fallback;
  };
  const int seed = number("ECHELON_CHAOS_SEED", 1);
  std::printf("ECHELON_CHAOS_SEED=%d\n", seed);
  std::minstd_rand random(seed);
  ServiceConfig config = ChaosConfig(model_.path());
  config.group.relaunch_window_ms = 1000;  // no budget here: every strike is a new day
  config.group.relaunches_max = 100;
  Start(config);
  if (HasFatalFailure()) return;
  for (int strike = 0; strike < number("ECHELON_CHAOS_STRIKES", 10); ++strike) {
    constexpr int kSignals[] = {SIGKILL, SIGSEGV, SIGABRT, SIGTERM};
    const int signal = kSignals[random() % std::size(kSignals)];
    const size_t victim = random() % 3;
    const int at_token = 1 + static_cast<int>(random() % 20);
    SCOPED_TRACE(
        StrCat("strike ", strike, ": signal ", signal, " to ", victim, " at token ", at_token));
    StrikeAndRecover(
        [&] {
          const auto pids = driver_->RankPids();
          kill(victim < 2 ? pids[victim] : ParentOf(pids[0]), signal);
        },
        2000, at_token);
    if (HasFatalFailure()) return;
  }
  Stop();
}

TEST_F(GroupChaosTest, KillWhileLoadingAndWhileRelaunching) {
  driver_ = std::make_unique<GroupDriver>(ChaosConfig(model_.path()));
  ASSERT_TRUE(driver_->ok());
  for (int strike = 0; strike < 3; ++strike) {
    const uint64_t epoch = driver_->group().epoch();
    ASSERT_TRUE(driver_->Until(
        [&] {
          return driver_->group().ranks()[strike % 2].joined && driver_->group().epoch() == epoch;
        },
        kReadyMs));
    Note();
    kill(driver_->RankPids()[strike % 2], SIGKILL);
    ASSERT_TRUE(driver_->Until([&] { return driver_->group().epoch() > epoch; }, kReadyMs));
  }
  ASSERT_TRUE(driver_->UntilState(GroupState::kReady, kReadyMs));
  EXPECT_EQ(driver_->Generate(kPrompt, kTokens).size(), static_cast<size_t>(kTokens));
  Stop();
}

TEST_F(GroupChaosTest, GivesUpWhenTheBudgetIsSpent) {
  ServiceConfig config = ChaosConfig(model_.path());
  config.group.relaunches_max = 1;
  Start(config);
  StrikeAndRecover([&] { kill(driver_->RankPids()[1], SIGKILL); }, 500);
  kill(driver_->RankPids()[0], SIGKILL);
  ASSERT_TRUE(driver_->UntilState(GroupState::kFailed, 5000));
  EXPECT_THAT(driver_->group().failure()->message, HasSubstr("group.relaunches_max = 1"));
  driver_.reset();
  ExpectGone();
}

TEST_F(GroupChaosTest, AMissingModelIsOneClearErrorAndNoRelaunch) {
  ServiceConfig config = ChaosConfig("/no/such/model");
  config.model.load_format = "auto";
  driver_ = std::make_unique<GroupDriver>(config);
  ASSERT_TRUE(driver_->ok());
  ASSERT_TRUE(
      driver_->Until([&] { return driver_->group().state() == GroupState::kFailed; }, kReadyMs));
  EXPECT_THAT(driver_->group().failure()->message, HasSubstr("/no/such/model"));
  EXPECT_EQ(driver_->group().counters().relaunches, 0u);
}

// A group that others start, as a supervisor of pods would: the ranks ask for their epoch, and
// after a loss the coordinator waits for the next ones.
TEST_F(GroupChaosTest, RanksThatOthersStart) {
  ServiceConfig config = ChaosConfig(model_.path());
  config.group.launcher = "external";
  config.group.endpoint = "tcp://127.0.0.1:" + std::to_string(20'000 + getpid() % 10'000);
  driver_ = std::make_unique<GroupDriver>(config);
  ASSERT_TRUE(driver_->ok());
  std::vector<std::vector<int32_t>> answers;
  for (uint64_t epoch = 1; epoch <= 2; ++epoch) {
    ASSERT_TRUE(driver_->UntilState(GroupState::kStarting, 10'000));
    const std::string worker = WorkerProgram();
    const pid_t supervisor = fork();
    if (supervisor == 0) {
      setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
      setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
      execlp("mpirun", "mpirun", "-n", "2", "--oversubscribe", "--mca", "pml", "ob1", "--mca",
             "btl", "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none",
             worker.c_str(), "--coordinator", config.group.endpoint.c_str(), nullptr);
      _exit(127);
    }
    ASSERT_TRUE(driver_->UntilState(GroupState::kReady, kReadyMs));
    EXPECT_EQ(driver_->group().epoch(), epoch);
    answers.push_back(driver_->Generate(kPrompt, kTokens));
    Note();
    kill(driver_->RankPids()[1], SIGKILL);
    ASSERT_TRUE(
        driver_->Until([&] { return driver_->group().state() == GroupState::kRelaunching; }, 2000));
    EXPECT_EQ(driver_->TakeLost().size(), 1u);
    ASSERT_TRUE(driver_->Until([&] { return !IsAlive(supervisor); }, 5000));  // ends by itself
  }
  ASSERT_TRUE(driver_->UntilState(GroupState::kStarting, 10'000));
  EXPECT_EQ(answers[0].size(), static_cast<size_t>(kTokens));
  EXPECT_EQ(answers[1], answers[0]);
  ExpectGone();
}

// A coordinator in a process of its own, whose death leaves the test running.
class OwnedGroup {
 public:
  explicit OwnedGroup(const ServiceConfig& config) {
    int pids[2];
    EXPECT_EQ(pipe2(pids, O_CLOEXEC), 0);  // or the ranks would hold it open
    owner_ = fork();
    if (owner_ == 0) Own(config, pids[1]);
    close(pids[1]);
    pid_t pid = 0;
    while (read(pids[0], &pid, sizeof(pid)) == sizeof(pid)) members_.push_back(pid);
    close(pids[0]);
  }
  ~OwnedGroup() {
    kill(owner_, SIGKILL);
    waitpid(owner_, nullptr, 0);
  }
  pid_t owner() const { return owner_; }
  const std::vector<pid_t>& members() const { return members_; }  // ranks and launcher
  bool AnyAlive() const {
    return std::any_of(members_.begin(), members_.end(), [](pid_t pid) { return IsAlive(pid); });
  }
  bool GoneWithin(int64_t ms) const {
    const int64_t deadline_ms = NowMs() + ms;
    while (AnyAlive() && NowMs() < deadline_ms) usleep(20'000);
    return !AnyAlive();
  }

 private:
  [[noreturn]] static void Own(const ServiceConfig& config, int report) {
    GroupDriver driver(config);
    if (!driver.ok() || !driver.UntilState(GroupState::kReady, kReadyMs)) _exit(1);
    for (const pid_t pid : driver.RankPids()) {
      const pid_t both[2] = {pid, ParentOf(pid)};
      if (write(report, both, sizeof(both)) != sizeof(both)) _exit(1);
    }
    close(report);
    driver.Until([] { return false; }, 60'000);
    _exit(0);
  }
  pid_t owner_ = 0;
  std::vector<pid_t> members_;
};

TEST_F(GroupChaosTest, NobodyOutlivesTheCoordinator) {
  const ServiceConfig config = ChaosConfig(model_.path());
  const OwnedGroup group(config);
  ASSERT_EQ(group.members().size(), 4u);
  ASSERT_TRUE(group.AnyAlive());
  kill(group.owner(), SIGKILL);
  EXPECT_TRUE(group.GoneWithin(config.group.lease_ms + 1000));
}

// A stopped coordinator keeps its sockets and its children: only the lease ends the ranks, which is
// how ranks behind a broken link end, too.
TEST_F(GroupChaosTest, TheLeaseEndsRanksOfAStoppedCoordinator) {
  const ServiceConfig config = ChaosConfig(model_.path());
  const OwnedGroup group(config);
  ASSERT_EQ(group.members().size(), 4u);
  kill(group.owner(), SIGSTOP);
  EXPECT_FALSE(group.GoneWithin(config.group.lease_ms - 500)) << "ended before the lease";
  EXPECT_TRUE(group.GoneWithin(1500));
}

// Three stages and a real checkpoint: the same tokens as one rank alone.
TEST_F(GroupChaosTest, ARealModelOnSeveralRanks) {
  const std::string path = TestModelPath(kSmolModel);
  if (path.empty()) GTEST_SKIP() << kSmolModel << " is not in ECHELON_TEST_MODELS";
  ServiceConfig config;
  config.model.path = path;
  config.worker.kv_memory_bytes = 64 << 20;
  const std::vector<int32_t> prompt = {504, 3575, 282, 4649, 314};  // "The capital of France is"
  std::vector<std::vector<int32_t>> answers;
  for (const auto& [tp, pp] : {std::pair{1, 1}, {2, 1}, {1, 2}}) {
    config.layout.tp = tp;
    config.layout.pp = pp;
    GroupDriver driver(config);
    ASSERT_TRUE(driver.ok());
    ASSERT_TRUE(driver.UntilState(GroupState::kReady, 60'000));
    answers.push_back(driver.Generate(prompt, 6));
    EXPECT_EQ(answers.back().size(), 6u);
    driver.group().Shutdown();
    EXPECT_TRUE(driver.UntilState(GroupState::kStopped, 10'000));
  }
  EXPECT_EQ(answers[1], answers[0]);
  EXPECT_EQ(answers[2], answers[0]);
}

}  // namespace
}  // namespace echelon::testing
