// How often a worker group is launched again, and when that ends.

#include <gmock/gmock.h>

#include "coordinator/worker_group.h"
#include "fake_group.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

class RelaunchTest : public GroupTest {
 protected:
  void LoseRank0() {
    script_.dead_ranks = {0};
    Pass(1000, {0, 1});
    ranks_.clear();
    Pass(7000);
  }
};

TEST_F(RelaunchTest, GivesUpAtOnceOnWhatNoRelaunchCures) {
  Make();
  MakeRanks();
  for (auto& rank : ranks_) rank->Join();
  ASSERT_TRUE(UntilState(GroupState::kLoading));
  ranks_[1]->Send(ControlType::kFailure, Encode(FailureMessage{NotFound("no file m.gguf")}));
  ASSERT_TRUE(UntilState(GroupState::kFailed));
  EXPECT_EQ(group_->failure()->message, "rank 1 on host h: no file m.gguf");
  EXPECT_EQ(group_->counters().relaunches, 0u);
}

TEST_F(RelaunchTest, GivesUpWhenTheLauncherNeverBroughtUpARank) {
  Make();
  script_.exit = "mpirun ended with status 1";
  while (group_->Tick()) {
  }
  clock_.AdvanceUs(100'000);
  ASSERT_TRUE(UntilState(GroupState::kFailed));
  EXPECT_THAT(group_->failure()->message, HasSubstr("mpirun ended with status 1"));
}

TEST_F(RelaunchTest, GivesUpAfterTheBudgetOfRelaunches) {
  options_.settings.relaunches_max = 2;
  Make();
  for (int loss = 0; loss < 3; ++loss) {
    ASSERT_EQ(group_->state(), loss == 0 ? GroupState::kStarting : group_->state());
    BringUp();
    LoseRank0();
  }
  EXPECT_EQ(group_->state(), GroupState::kFailed);
  EXPECT_EQ(group_->counters().relaunches, 2u);
  EXPECT_EQ(group_->TakeLost().size(), 3u);
  EXPECT_THAT(group_->failure()->message, HasSubstr("lost 3 times within 60000 ms"));
  EXPECT_THAT(group_->failure()->message, HasSubstr("process 1000 died"));
}

// Each attempt lasts as long as the window.
TEST_F(RelaunchTest, GivesUpOnARankThatNeverJoins) {
  options_.settings.relaunches_max = 2;
  ASSERT_EQ(options_.settings.join_deadline_ms, options_.settings.relaunch_window_ms);
  Make();
  Pass(4 * 65'000);
  EXPECT_EQ(group_->state(), GroupState::kFailed);
  EXPECT_EQ(script_.launches.size(), 3u);
  EXPECT_THAT(group_->failure()->message,
              HasSubstr("lost 3 times, the last time before it had computed a step "
                        "(group.relaunches_max = 2); the last time: after "));
}

TEST_F(RelaunchTest, GivesUpWhereEveryFirstStepHangs) {
  options_.settings.relaunches_max = 1;
  Make();
  for (int loss = 0; loss < 2; ++loss) {
    BringUp();
    ASSERT_TRUE(group_->SendPlan(Plan(1)).ok());
    Pass(121'000, {0, 1});
    ranks_.clear();
    Pass(7000);
  }
  EXPECT_EQ(group_->state(), GroupState::kFailed);
  EXPECT_THAT(group_->failure()->message, HasSubstr("step 1 has had no result"));
}

TEST_F(RelaunchTest, LossesFarApartOfGroupsThatWorkedAreForgotten) {
  options_.settings.relaunches_max = 1;
  Make();
  for (int loss = 0; loss < 4; ++loss) {
    BringUp();
    if (loss % 2 == 0) {
      ASSERT_TRUE(StepWorks(1));  // the others had nothing to compute
    }
    Pass(61'000, {0, 1});
    LoseRank0();
    ASSERT_EQ(group_->state(), GroupState::kStarting);
  }
  EXPECT_EQ(group_->counters().relaunches, 4u);
}

}  // namespace
}  // namespace echelon
