#include "coordinator/scheduler.h"

#include <gtest/gtest.h>

#include "tests/unit/coordinator/scheduler_kit.h"

namespace echelon {
namespace {

class SchedulerTest : public testing::SchedulerFixture {};

TEST_F(SchedulerTest, PrefillIsCutIntoChunks) {
  Start({8, 5, 1, 1});
  Sequence& s = Add(12, 2);
  StepPlan first = Plan();
  ASSERT_EQ(first.sequences.size(), 1u);
  EXPECT_TRUE(first.sequences[0].first);
  EXPECT_EQ(first.sequences[0].prompt_tokens, 12);
  EXPECT_EQ(first.sequences[0].tokens.size(), 5u);
  EXPECT_EQ(first.sequences[0].new_pages.size(), 3u);  // of the whole prompt
  EXPECT_FALSE(first.sequences[0].sample);
  Commit(first);
  StepPlan second = Plan();
  EXPECT_FALSE(second.sequences[0].first);
  EXPECT_EQ(second.sequences[0].start_position, 5);
  EXPECT_TRUE(second.sequences[0].new_pages.empty());
  Commit(second);
  StepPlan third = Plan();
  EXPECT_EQ(third.sequences[0].tokens, (std::vector<int32_t>{s.prompt()[10], s.prompt()[11]}));
  EXPECT_TRUE(third.sequences[0].sample);
}

TEST_F(SchedulerTest, LookaheadNamesTheTokenThatIsStillBeingSampled) {
  Start({8, 64, 0, 1});
  Add(3, 5);
  const StepPlan first = Plan();
  const StepPlan second = Plan();
  EXPECT_EQ(second.sequences[0].tokens, std::vector<int32_t>{kTokenFromLastStep});
  EXPECT_EQ(second.sequences[0].start_position, 3);
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt) << "two plans in flight are the limit";
  Commit(first);
  const StepPlan third = Plan();
  EXPECT_EQ(third.sequences[0].tokens, std::vector<int32_t>{kTokenFromLastStep});
  EXPECT_EQ(third.sequences[0].start_position, 4);
}

TEST_F(SchedulerTest, LookaheadDoesNotRunPastMaxTokens) {
  Start({8, 64, 0, 1});
  Sequence& s = Add(3, 2);
  const StepPlan first = Plan();
  const StepPlan second = Plan();
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt);
  Commit(first);
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt) << "both tokens are on their way";
  Commit(second);
  EXPECT_EQ(s.finish_reason(), FinishReason::kLength);
}

TEST_F(SchedulerTest, TokensPastAStopAreDiscardedAndPagesGoAfterTheLastPlan) {
  Start({8, 64, 0, 1});
  Sequence& s = Add(3, 50);
  const StepPlan first = Plan();
  const StepPlan second = Plan();
  // Ends with the first token, while the second plan is on its way.
  const StepResult result = ResultOf(first);
  auto items = scheduler_->Commit(result);
  ASSERT_TRUE(items.ok());
  s.Finish(FinishReason::kStop, 1);
  scheduler_->Remove(s.id());
  scheduler_->CheckInvariants();
  EXPECT_LT(scheduler_->pages_free(), 100) << "the second plan still writes to them";
  const StepResult late = ResultOf(second);
  auto none = scheduler_->Commit(late);
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->empty());
  EXPECT_EQ(scheduler_->pages_free(), 100);
  Add(2, 1);
  EXPECT_EQ(Plan().released, std::vector<SequenceId>{s.id()});
}

TEST_F(SchedulerTest, DecodesComeBeforePrefills) {
  Start({8, 6, 1, 1});
  Add(2, 9);
  Add(2, 9);
  Commit(Plan());
  Add(20, 2);
  const StepPlan plan = Plan();
  ASSERT_EQ(plan.sequences.size(), 3u);
  EXPECT_EQ(plan.sequences[0].tokens.size(), 1u);
  EXPECT_EQ(plan.sequences[1].tokens.size(), 1u);
  EXPECT_EQ(plan.sequences[2].tokens.size(), 4u) << "what is left of 6 rows";
}

TEST_F(SchedulerTest, AdmissionIsFirstComeFirstServed) {
  Start({1, 64, 1, 1});
  Add(30, 1);
  Add(1, 1);
  EXPECT_EQ(Plan().sequences[0].id, 1u);
  EXPECT_EQ(scheduler_->waiting(), 1);
}

TEST_F(SchedulerTest, ALargeRequestAtTheHeadIsNotOvertaken) {
  Start({8, 64, 1, 1}, {10, 4, 200, 300});
  Add(24, 4);  // 7 pages
  Commit(Plan());
  Add(28, 4);  // 7 pages: must wait
  Add(2, 2);
  const StepPlan plan = Plan();
  EXPECT_EQ(plan.sequences.size(), 1u);
  EXPECT_EQ(scheduler_->waiting(), 2);
  Commit(plan);
  Drain();
  for (const auto& s : sequences_) EXPECT_TRUE(s->finished());
}

TEST_F(SchedulerTest, WhatCanNeverFitIsRefusedWithSizes) {
  Start({8, 64, 1, 1}, {4, 4, 200, 300});
  EXPECT_TRUE(scheduler_->CheckFits(10, 7).ok());  // 16 positions are fed
  const Status no = scheduler_->CheckFits(10, 8);
  ASSERT_FALSE(no.ok());
  EXPECT_EQ(no.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(no.error().message.find("5 KV pages"), std::string::npos) << no.error().message;
  EXPECT_NE(no.error().message.find("has 4"), std::string::npos) << no.error().message;
  const Status over = scheduler_->CheckFits(10, 191);
  EXPECT_EQ(over.error().field, "max_tokens");
  EXPECT_NE(over.error().message.find("201"), std::string::npos);
  EXPECT_EQ(scheduler_->CheckFits(200, 1).error().field, "prompt");
}

TEST_F(SchedulerTest, TheLatestAdmittedIsPreemptedAndReplayedWithForcedTokens) {
  Start({8, 64, 1, 1}, {8, 4, 200, 300});
  Sequence& old = Add(12, 12);  // grows to 6 pages
  Sequence& late = Add(8, 8);   // grows to 4 pages: 10 of 8
  StepPlan replay;
  for (int i = 0; i < 40 && !late.finished(); ++i) {
    const StepPlan plan = Plan();
    for (const SequenceStep& step : plan.sequences) {
      if (step.id == late.id() && step.first && i > 0) replay = plan;
    }
    Commit(plan);
  }
  EXPECT_EQ(scheduler_->counters().preemptions, 1u);
  EXPECT_TRUE(old.finished());
  ASSERT_FALSE(replay.sequences.empty());
  const SequenceStep& forced = replay.sequences.back();
  ASSERT_EQ(forced.id, late.id());
  EXPECT_EQ(forced.prompt_tokens, 8) << "emitted tokens are no prompt";
  EXPECT_GT(forced.tokens.size(), 8u);
  EXPECT_EQ(forced.tokens.back(), 'x') << "fed, not sampled";
  EXPECT_TRUE(forced.sample) << "the proof row";
  EXPECT_EQ(proofs_, 1);
  EXPECT_EQ(scheduler_->counters().replay_tokens_forced, forced.tokens.size() - 8 + 1);
  EXPECT_EQ(late.generated(), 8);
}

TEST_F(SchedulerTest, ReplayIsCutIntoChunksToo) {
  Start({8, 3, 1, 1}, {100, 4, 200, 300});
  Sequence& s = Add(4, 9);
  for (int i = 0; i < 6; ++i) Commit(Plan());
  const int32_t had = s.generated();
  ASSERT_GE(had, 4);
  scheduler_->Stop();
  scheduler_->Start(2, {100, 4, 200, 300});
  for (int i = 0; i < 20 && !s.finished(); ++i) {
    const StepPlan plan = Plan();
    EXPECT_EQ(plan.epoch, 2u);
    EXPECT_EQ(plan.step_id, static_cast<uint64_t>(i + 1));
    EXPECT_LE(plan.sequences[0].tokens.size(), 3u);
    for (const int32_t token : plan.sequences[0].tokens) EXPECT_NE(token, kTokenFromLastStep);
    Commit(plan);
  }
  EXPECT_EQ(s.generated(), 9);
  EXPECT_EQ(proofs_, 1);
}

TEST_F(SchedulerTest, PipelinePlansHaveDisjointDecodes) {
  Start({8, 64, 0, 2});
  Add(2, 9);
  Add(2, 9);
  const StepPlan prefill = Plan();
  ASSERT_EQ(prefill.sequences.size(), 2u);
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt) << "both wait for their first token";
  Commit(prefill);
  const StepPlan one = Plan();
  const StepPlan two = Plan();
  ASSERT_EQ(one.sequences.size(), 1u) << "spread over the stages";
  ASSERT_EQ(two.sequences.size(), 1u);
  EXPECT_NE(one.sequences[0].id, two.sequences[0].id);
  EXPECT_EQ(one.sequences[0].tokens, std::vector<int32_t>{'x'});
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt);
}

TEST_F(SchedulerTest, MaxTokensZeroComputesThePromptAndSamplesNothing) {
  Start({8, 64, 0, 1});
  Add(3, 0);
  const StepPlan plan = Plan();
  EXPECT_FALSE(plan.sequences[0].sample);
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt);
}

TEST_F(SchedulerTest, FullPagesGetTheHashOfTheirContent) {
  Start({8, 64, 1, 1});
  Add(9, 1);
  const StepPlan plan = Plan();
  const std::vector<int32_t> pages = plan.sequences[0].new_pages;
  ASSERT_EQ(pages.size(), 3u);
  const StepResult result = ResultOf(plan);
  ASSERT_TRUE(scheduler_->Commit(result).ok());
  scheduler_->CheckInvariants();
  EXPECT_NE(scheduler_->PageHash(pages[0]), 0u);
  EXPECT_NE(scheduler_->PageHash(pages[1]), 0u);
  EXPECT_NE(scheduler_->PageHash(pages[0]), scheduler_->PageHash(pages[1]));
  EXPECT_EQ(scheduler_->PageHash(pages[2]), 0u) << "one token of four";
}

TEST_F(SchedulerTest, AResultThatBreaksTheContractIsAnErrorNotACrash) {
  Start({8, 64, 0, 1});
  Add(3, 5);
  const StepPlan plan = Plan();
  const StepResult good = ResultOf(plan);
  std::vector<StepResult> bad(9, good);
  bad[0].step_id += 1;
  bad[1].epoch += 1;
  bad[2].sequences.clear();
  bad[3].sequences[0].id = 99;
  bad[4].sequences[0].sampled[0].token = 300;
  bad[5].sequences[0].prompt_top.resize(2);
  bad[6].timings.push_back({-1, 0, 0, 0});
  bad[7].sequences[0].sampled.clear();
  bad[8].sequences[0].sampled.push_back({'x', 1.0f, {}});
  for (const StepResult& result : bad) {
    const auto items = scheduler_->Commit(result);
    EXPECT_FALSE(items.ok());
  }
  EXPECT_TRUE(scheduler_->Commit(good).ok());
  EXPECT_FALSE(scheduler_->Commit(good).ok()) << "a replayed frame";
}

}  // namespace
}  // namespace echelon
