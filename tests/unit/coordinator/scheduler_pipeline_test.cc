// How the scheduler fills a pipeline: equal plans, and so few idle stages. The bubble is computed
// from a straight line for the time of a plan on a stage, so that it does not depend on a machine.

#include <gmock/gmock.h>

#include "tests/support/pipeline_replay.h"
#include "tests/unit/coordinator/scheduler_kit.h"

namespace echelon {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

int32_t Rows(const StepPlan& plan) {
  int32_t rows = 0;
  for (const SequenceStep& step : plan.sequences) rows += static_cast<int32_t>(step.tokens.size());
  return rows;
}

class SchedulerPipelineTest : public testing::SchedulerFixture {
 protected:
  void Start(int32_t stages, SchedulerLimits limits = {}) {
    limits.pp = stages;
    SchedulerFixture::Start(limits, {4000, 4, 4000, 300});
  }
  // Rows of each plan that can be made now.
  std::vector<int32_t> PlanAll() {
    std::vector<int32_t> rows;
    while (auto plan = scheduler_->Plan(1)) {
      scheduler_->CheckInvariants();
      rows.push_back(Rows(*plan));
      in_flight_.push_back(std::move(*plan));
    }
    return rows;
  }
  void CommitOldest() {
    Commit(in_flight_.front());
    in_flight_.erase(in_flight_.begin());
  }
  // Runs to the end with as many plans in flight as there may be, a result at a time.
  // `plan_seconds`: of a plan of so many rows on a stage.
  template <typename Seconds>
  std::vector<testing::ReplayedPlan> Run(int32_t stages, const Seconds& plan_seconds) {
    std::vector<testing::ReplayedPlan> record;
    for (int committed = 0; committed == 0 || !in_flight_.empty(); ++committed) {
      for (const int32_t rows : PlanAll()) {
        std::vector<double> busy(stages, plan_seconds(rows));
        record.push_back({committed, 0.0, std::move(busy), false});
      }
      CommitOldest();
      for (const auto& s : sequences_) {
        if (!s->finished()) break;
        if (s == sequences_.back()) return record;
      }
    }
    return record;
  }
  template <typename Seconds>
  double Bubble(int32_t stages, const Seconds& plan_seconds) {
    const auto record = Run(stages, plan_seconds);
    return testing::LayOut(record, stages, [](const auto&) { return true; }).bubble(stages);
  }

  std::vector<StepPlan> in_flight_;
};

// Of a stage: 2 ms for the first 16 rows' weights, then 0.1 ms a row.
double PlanSeconds(int32_t rows) { return 0.002 + 0.0001 * std::max(0, rows - 16); }

TEST_F(SchedulerPipelineTest, PromptsAreSpreadOverThePlansInFlight) {
  Start(4);
  for (int s = 0; s < 8; ++s) Add(64, 8);
  EXPECT_THAT(PlanAll(), ElementsAre(32, 32, 32, 32)) << "512 rows in 16 chunks";
  CommitOldest();
  EXPECT_THAT(PlanAll(), ElementsAre(32));
}

TEST_F(SchedulerPipelineTest, ALongPromptIsCutIntoEqualChunks) {
  Start(2);
  Add(1024, 2);
  std::vector<int32_t> rows = PlanAll();
  while (sequences_[0]->generated() == 0) {
    CommitOldest();
    for (const int32_t more : PlanAll()) rows.push_back(more);
  }
  EXPECT_EQ(rows.size(), 9u);
  EXPECT_EQ(rows.back(), 1) << "the decode";
  rows.pop_back();
  EXPECT_THAT(rows, Each(128));
}

TEST_F(SchedulerPipelineTest, AChunkIsNoLargerThanAStepAndNoSmallerThanPays) {
  Start(2, {.step_tokens_max = 100});
  Add(3000, 2);
  EXPECT_THAT(PlanAll(), ElementsAre(100, 100));
  Start(4);
  sequences_.clear();
  in_flight_.clear();
  Add(40, 2);
  EXPECT_THAT(PlanAll(), ElementsAre(32, 8));
}

TEST_F(SchedulerPipelineTest, DecodesAreDividedEvenly) {
  Start(4);
  for (int s = 0; s < 6; ++s) Add(2, 40);
  EXPECT_THAT(PlanAll(), ElementsAre(12));
  CommitOldest();
  EXPECT_THAT(PlanAll(), ElementsAre(2, 2, 1, 1)) << "a plan for every stage, not 2, 2, 2";
  for (int round = 0; round < 8; ++round) {
    CommitOldest();
    EXPECT_THAT(PlanAll(), ElementsAre(round % 4 < 2 ? 2 : 1));
  }
}

TEST_F(SchedulerPipelineTest, DecodesThatEndLeaveTheOthersDividedEvenly) {
  Start(2);
  Add(2, 3);
  Add(2, 3);
  Add(2, 40);
  Add(2, 40);
  EXPECT_THAT(PlanAll(), ElementsAre(8));
  CommitOldest();
  EXPECT_THAT(PlanAll(), ElementsAre(2, 2));  // the first two, the last two
  for (int i = 0; i < 6; ++i) {
    CommitOldest();
    PlanAll();
  }
  ASSERT_EQ(in_flight_.size(), 2u) << "the two that are left do not wait for each other";
  EXPECT_EQ(Rows(in_flight_[0]), 1);
  EXPECT_EQ(Rows(in_flight_[1]), 1);
}

TEST_F(SchedulerPipelineTest, OneStageTakesEverythingAtOnce) {
  Start(1);
  for (int s = 0; s < 8; ++s) Add(64, 8);
  EXPECT_EQ(PlanAll().front(), 512);
}

TEST_F(SchedulerPipelineTest, TheBubbleOfAWholeRunIsUnderAFifth) {
  Start(4);
  for (int s = 0; s < 8; ++s) Add(64, 64);
  EXPECT_LT(Bubble(4, PlanSeconds), 0.10);
}

TEST_F(SchedulerPipelineTest, PromptsBesideDecodesDoNotStallThem) {
  Start(4);
  for (int s = 0; s < 8; ++s) Add(2, 100);
  for (int s = 0; s < 4; ++s) Add(256, 20);
  EXPECT_LT(Bubble(4, PlanSeconds), 0.12);
}

}  // namespace
}  // namespace echelon
