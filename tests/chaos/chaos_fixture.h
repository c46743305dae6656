#pragma once
// What the chaos tests of groups have in common: a group under mpirun, a strike in the midst of an
// answer, and what has to be so afterwards.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/chaos/group_driver.h"

namespace echelon::testing {

inline const std::vector<int32_t> kPrompt = {1, 17, 42, 99, 7, 250};
inline constexpr int kTokens = 24;
inline constexpr int64_t kReadyMs = 30'000;  // launch, join and load on a busy machine

inline int64_t NowMs() { return SystemClock().NowUs() / 1000; }

class GroupChaosTest : public ::testing::Test {
 protected:
  // Ready, and its answer before anything went wrong.
  void Start(const ServiceConfig& config, const std::string& worker = WorkerProgram()) {
    driver_ = std::make_unique<GroupDriver>(config, worker);
    ASSERT_TRUE(driver_->ok());
    ASSERT_TRUE(driver_->UntilState(GroupState::kReady, kReadyMs));
    expected_ = driver_->Generate(kPrompt, kTokens);
    ASSERT_EQ(expected_.size(), static_cast<size_t>(kTokens));
    Note();
  }
  void Note() {
    for (const pid_t pid : driver_->RankPids()) {
      seen_.push_back(pid);
      seen_.push_back(ParentOf(pid));
    }
  }
  // `strike` happens after token `at_token` of an answer; the loss must be noticed within
  // `deadline_ms`, and everything be well again afterwards.
  void StrikeAndRecover(const std::function<void()>& strike, int64_t deadline_ms,
                        int at_token = 3) {
    const uint64_t epoch = driver_->group().epoch();
    int64_t struck_ms = 0;
    const auto cut = driver_->Generate(kPrompt, 400, [&](int tokens) {
      if (tokens == at_token) {
        strike();
        struck_ms = NowMs();
      }
    });
    ASSERT_LT(cut.size(), 400u) << "the strike did nothing";
    EXPECT_LE(NowMs() - struck_ms, deadline_ms);
    for (size_t i = 0; i < cut.size() && i < expected_.size(); ++i) EXPECT_EQ(cut[i], expected_[i]);
    // A plan may be refused a moment before the loss is told: the rank's own reason is waited for.
    std::vector<LostGroup> lost;
    driver_->Until([&] { return !(lost = driver_->TakeLost()).empty(); }, 1000);
    ASSERT_EQ(lost.size(), 1u);
    EXPECT_EQ(lost[0].epoch, epoch);
    ASSERT_TRUE(driver_->UntilState(GroupState::kReady, kReadyMs));
    EXPECT_EQ(driver_->group().epoch(), epoch + 1);
    ExpectGone();
    EXPECT_EQ(driver_->Generate(kPrompt, kTokens), expected_)
        << "another answer after the relaunch";
    Note();
    last_error_ = lost[0].error;
  }
  void ExpectGone() {
    for (const pid_t pid : seen_) EXPECT_FALSE(IsAlive(pid)) << "left behind: " << pid;
    seen_.clear();
  }
  void Stop() {
    driver_->group().Shutdown();
    EXPECT_TRUE(driver_->UntilState(GroupState::kStopped, 10'000));
    driver_.reset();
    ExpectGone();
    EXPECT_EQ(FilesOf(getpid()), std::vector<std::string>{}) << "files left behind";
  }

  TinyModel model_;
  std::unique_ptr<GroupDriver> driver_;
  std::vector<int32_t> expected_;
  std::vector<pid_t> seen_;
  Error last_error_;
};

}  // namespace echelon::testing
