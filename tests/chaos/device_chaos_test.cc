// GPU workers in a real group under mpirun, their devices emulated (emulated_worker.cc): the
// reference's tokens, and what dies, stops or fails ends the rank with a non-zero status that names
// it, the group is launched again, and no wrong token is given out on the way.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "common/strings.h"
#include "tests/chaos/chaos_fixture.h"

namespace echelon::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

// By how the devices exchange.
class DeviceChaosTest : public GroupChaosTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void StartOnDevices() {
    ServiceConfig config = ChaosConfig(model_.path());
    config.worker.kv_type = "f32";
    config.group.relaunches_max = 20;
    Start(config);
    if (HasFatalFailure()) return;
    const std::vector<int32_t> want = expected_;
    Stop();
    config.worker.backend = "cuda";
    config.worker.device_exchange = GetParam();
    Start(config, TestProgram("emulated_worker"));
    ASSERT_EQ(expected_, want) << "other tokens than the reference backend's";
  }
  void Signal(int rank, int signal, int64_t deadline_ms) {
    StrikeAndRecover([&] { kill(driver_->RankPids()[static_cast<size_t>(rank)], signal); },
                     deadline_ms);
  }
};

TEST_P(DeviceChaosTest, KillEachRank) {
  StartOnDevices();
  for (const int rank : {0, 1}) {
    if (HasFatalFailure()) return;
    Signal(rank, SIGKILL, 1000);
    // Its connection may be seen to close before its process is gone; the other rank's NCCL may see
    // it first.
    EXPECT_THAT(
        last_error_.message,
        ContainsRegex(StrCat("^rank ", rank, " on host .+, CUDA device .+: .*process.* died",
                             "|NCCL, .+: rank ", rank, " on host .+ is gone")));
  }
  Stop();
}

// The other rank's kernel, or its host, waits for what the killed one was to send.
TEST_P(DeviceChaosTest, KillARankAmidAMessage) {
  StartOnDevices();
  for (const int rank : {0, 1}) {
    if (HasFatalFailure()) return;
    const pid_t pid = driver_->RankPids()[static_cast<size_t>(rank)];
    std::thread killer;
    StrikeAndRecover(
        [&] {
          kill(pid, SIGSTOP);
          killer = std::thread([pid] {
            std::this_thread::sleep_for(std::chrono::milliseconds(500));
            kill(pid, SIGKILL);
          });
        },
        1500);
    if (killer.joinable()) killer.join();
    EXPECT_THAT(last_error_.message, HasSubstr(StrCat("rank ", rank, " on host ")));
  }
  Stop();
}

TEST_P(DeviceChaosTest, StopARank) {
  StartOnDevices();
  if (HasFatalFailure()) return;
  Signal(1, SIGSTOP, 3000);
  EXPECT_THAT(last_error_.message, HasSubstr("no heartbeat"));
  Stop();
}

TEST_P(DeviceChaosTest, ADeviceFails) {
  StartOnDevices();
  for (const int rank : {0, 1}) {
    if (HasFatalFailure()) return;
    Signal(rank, SIGUSR1, 3000);
    EXPECT_EQ(last_error_.rank, rank);
    EXPECT_THAT(last_error_.message,
                AllOf(HasSubstr("CUDA device"), HasSubstr("illegal memory access")));
  }
  Stop();
}

TEST_P(DeviceChaosTest, NcclFailsAmidAStep) {
  if (std::string(GetParam()) != "nccl") GTEST_SKIP() << "there is no NCCL";
  StartOnDevices();
  for (const int rank : {0, 1}) {
    if (HasFatalFailure()) return;
    Signal(rank, SIGUSR2, 3000);
    EXPECT_EQ(last_error_.rank, rank);
    EXPECT_THAT(last_error_.message,
                AllOf(HasSubstr("CUDA device"), HasSubstr("NCCL, an operation under way")));
  }
  Stop();
}

// All ranks' hosts live on and wait for their devices, which wait for each other.
TEST_P(DeviceChaosTest, NcclHangsAmidAStep) {
  if (std::string(GetParam()) != "nccl") GTEST_SKIP() << "there is no NCCL";
  StartOnDevices();
  for (const int rank : {0, 1}) {
    if (HasFatalFailure()) return;
    constexpr int64_t kStepDeadlineMs = 5000, kNoticedMs = 1000;  // ChaosConfig's
    Signal(rank, SIGHUP, kStepDeadlineMs + kNoticedMs);
    for (const int waits : {0, 1}) {
      EXPECT_THAT(last_error_.message,
                  ContainsRegex(StrCat("rank ", waits,
                                       " on host .+, CUDA device .+ has waited "
                                       "[0-9]+ ms for its device, which may wait for rank ",
                                       1 - waits, " on host .+, CUDA device")));
    }
  }
  Stop();
}

INSTANTIATE_TEST_SUITE_P(Exchanges, DeviceChaosTest, ::testing::Values("staged", "peer", "nccl"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace echelon::testing
