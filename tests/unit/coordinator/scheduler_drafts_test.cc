// Speculation in the scheduler: what plans carry, what waits, what results do to the places of
// sequences.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/scheduler.h"
#include "tests/unit/coordinator/scheduler_kit.h"

namespace echelon {
namespace {

using testing::ByteTokenizer;
using ::testing::ElementsAre;
using testing::MakeRequest;

class SchedulerDraftsTest : public testing::SchedulerFixture {
 protected:
  void Start(SchedulerLimits limits, SchedulerCapacity capacity = {100, 4, 200, 300}) {
    limits.speculation = {.drafts_max = 8, .ngram_max = 3, .ngram_min = 2};
    SchedulerFixture::Start(limits, capacity);
  }
  Sequence& Add(std::vector<int32_t> prompt, int32_t max_tokens, bool speculate = true,
                SamplingParams params = {}) {
    Request request = MakeRequest({}, max_tokens);
    request.speculate = speculate;
    request.params = params;
    request.ignore_eos = false;
    return AddRequest(std::move(request), std::move(prompt));
  }
};

TEST_F(SchedulerDraftsTest, ADecodeCarriesWhatFollowedBefore) {
  Start({8, 64, 1, 1});
  Sequence& s = Add({1, 2, 3, 4, 5, 1}, 20);
  Commit(Plan(), {{2}});
  const StepPlan guess = Plan();
  EXPECT_THAT(guess.sequences[0].tokens, ElementsAre(2, 3, 4));
  EXPECT_EQ(guess.sequences[0].drafts, 2);
  EXPECT_EQ(guess.sequences[0].start_position, 6);
  EXPECT_TRUE(guess.sequences[0].sample);
  Commit(guess, {{3, 4, 5}});  // all right
  EXPECT_EQ(s.generated(), 4);
  const StepPlan more = Plan();
  EXPECT_EQ(more.sequences[0].start_position, 9);
  EXPECT_THAT(more.sequences[0].tokens, ElementsAre(5, 1, 2, 3, 4));
  Commit(more, {{1, 9}});  // the second was wrong
  EXPECT_EQ(scheduler_->counters().tokens_drafted, 6u);
  EXPECT_EQ(scheduler_->counters().drafts_accepted, 3u);
  const StepPlan after = Plan();
  EXPECT_EQ(after.sequences[0].start_position, 11) << "behind the last draft that was right";
  EXPECT_THAT(after.sequences[0].tokens, ElementsAre(9));
  EXPECT_TRUE(after.sequences[0].new_pages.empty()) << "12 positions, and pages for 14 are there";
}

TEST_F(SchedulerDraftsTest, NothingIsPlannedAheadOfAGuess) {
  Start({8, 64, 0, 1});
  Add({1, 2, 3, 1, 2}, 20);
  const StepPlan prefill = Plan();
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt) << "the text's end recurs: wait for its token";
  Commit(prefill, {{3}});
  const StepPlan guess = Plan();
  EXPECT_EQ(guess.sequences[0].drafts, 2);
  EXPECT_EQ(scheduler_->Plan(1), std::nullopt);
  Commit(guess, {{7}});
  EXPECT_THAT(Plan().sequences[0].tokens, ElementsAre(7));
  EXPECT_THAT(Plan().sequences[0].tokens, ElementsAre(kTokenFromLastStep))
      << "nothing to guess: a plan ahead, as always";
}

TEST_F(SchedulerDraftsTest, OnlyForThoseThatMayAndAsk) {
  Start({8, 64, 1, 1});
  SamplingParams penalised;
  penalised.presence_penalty = 0.5f;
  SamplingParams biased;
  biased.logit_bias = {{5, 1.0f}};
  biased.temperature = 0.7f;
  Add({1, 2, 3, 1, 2}, 20, false);
  Add({1, 2, 3, 1, 2}, 20, true, penalised);
  Add({1, 2, 3, 1, 2}, 20, true, biased);
  Commit(Plan(), {{3}, {3}, {3}});
  const StepPlan plan = Plan();
  EXPECT_EQ(plan.sequences[0].drafts, 0);
  EXPECT_EQ(plan.sequences[1].drafts, 0);
  EXPECT_EQ(plan.sequences[2].drafts, 2);
}

TEST_F(SchedulerDraftsTest, GuessesEndBeforeTheLastToken) {
  Start({8, 64, 1, 1});
  Sequence& s = Add({1, 2, 3, 1, 2}, 3);
  Commit(Plan(), {{3}});
  const StepPlan plan = Plan();
  EXPECT_EQ(plan.sequences[0].drafts, 1) << "two tokens are left: a draft and the one behind it";
  Commit(plan, {{1, 2}});
  EXPECT_EQ(s.finish_reason(), FinishReason::kLength);
  EXPECT_EQ(scheduler_->pages_free(), 100);
}

TEST_F(SchedulerDraftsTest, WhatCameBehindAStopIsDiscarded) {
  Start({8, 64, 1, 1});
  Sequence& s = Add({1, 2, 3, ByteTokenizer::kEnd, 8, 1, 2}, 20);
  Commit(Plan(), {{3}});
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.sequences[0].tokens, ElementsAre(3, ByteTokenizer::kEnd, 8));
  Commit(plan, {{ByteTokenizer::kEnd, 8, 1}});
  EXPECT_EQ(s.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(s.generated(), 2);
  EXPECT_EQ(scheduler_->pages_free(), 100);
}

TEST_F(SchedulerDraftsTest, AStepsDraftsAreSharedOut) {
  Start({16, 64, 1, 1});
  for (int i = 0; i < 4; ++i) Add({1, 2, 3, 4, 1, 2}, 20);
  Commit(Plan(), {{3}, {3}, {3}, {3}});
  StepPlan plan = Plan();
  for (const SequenceStep& step : plan.sequences) EXPECT_EQ(step.drafts, 2) << "8 among 4";
  for (int i = 0; i < 5; ++i) Add({1, 2, 3, 4, 1, 2}, 20);
  Commit(plan, {{4, 1, 2}, {4, 1, 2}, {4, 1, 2}, {4, 1, 2}});
  plan = Plan();
  ASSERT_EQ(plan.sequences.size(), 9u);
  EXPECT_EQ(plan.sequences[0].drafts, 2) << "the five are prefilled in this step";
  std::vector<std::vector<int32_t>> drawn(9, {9});
  Commit(plan, drawn);
  for (const SequenceStep& step : Plan().sequences) EXPECT_EQ(step.drafts, 0) << "8 among 9";
}

TEST_F(SchedulerDraftsTest, DraftsTakeWhatRowsAreLeft) {
  Start({8, 5, 1, 1});
  Add({1, 2, 3, 1}, 20);
  Commit(Plan(), {{2}});
  Add({10, 11, 12, 13, 14, 15, 16, 17}, 20);
  StepPlan plan = Plan();
  ASSERT_EQ(plan.sequences.size(), 2u);
  EXPECT_EQ(plan.sequences[0].drafts, 2);
  EXPECT_EQ(plan.sequences[1].tokens.size(), 2u) << "of five rows";
}

TEST_F(SchedulerDraftsTest, NobodyIsPreemptedForAGuess) {
  Start({8, 64, 1, 1}, {4, 4, 200, 300});
  Add({1, 2, 3, 1, 2, 3}, 9);  // 2 pages, of 8 positions
  Add({21, 22, 23, 24}, 5);    // 1 page, and now the last one
  Commit(Plan(), {{1}, {25}});
  const StepPlan plan = Plan();
  ASSERT_EQ(plan.sequences.size(), 2u);
  EXPECT_EQ(plan.sequences[0].drafts, 1) << "what its own pages hold";
  EXPECT_EQ(scheduler_->counters().preemptions, 0u);
}

TEST_F(SchedulerDraftsTest, AWrongGuessGoesWithItsPreemptedSequence) {
  Start({8, 64, 0, 1}, {100, 4, 200, 300});
  Sequence& s = Add({1, 2, 3, 1, 2}, 20);
  Commit(Plan(), {{3}});
  Plan();              // with drafts, never to come back
  scheduler_->Stop();  // the group is lost
  scheduler_->Start(2, {100, 4, 200, 300});
  const StepPlan replay = Plan();
  EXPECT_THAT(replay.sequences[0].tokens, ElementsAre(1, 2, 3, 1, 2)) << "the proof row last";
  EXPECT_EQ(replay.sequences[0].drafts, 0);
  EXPECT_EQ(s.generated(), 1);
}

TEST_F(SchedulerDraftsTest, PipelinePlansCarryDraftsToo) {
  Start({8, 64, 0, 2});
  Add({1, 2, 3, 1, 2}, 20);
  Add({1, 2, 3, 1, 2}, 20);
  Commit(Plan(), {{3}, {3}});
  const StepPlan one = Plan();
  const StepPlan two = Plan();
  ASSERT_EQ(one.sequences.size(), 1u);
  ASSERT_EQ(two.sequences.size(), 1u);
  EXPECT_EQ(one.sequences[0].drafts, 2);
  EXPECT_EQ(two.sequences[0].drafts, 2);
  EXPECT_NE(one.sequences[0].id, two.sequences[0].id);
}

TEST_F(SchedulerDraftsTest, PagesOfRejectedDraftsGetTheirHashWithTheRightTokens) {
  Start({8, 64, 1, 1});
  Add({1, 2, 3, 1, 2}, 20);
  const StepPlan prefill = Plan();
  Commit(prefill, {{3}});
  const StepPlan guess = Plan();  // positions 5, 6 and 7: the second page would be full
  const int32_t page = prefill.sequences[0].new_pages.at(1);
  EXPECT_EQ(guess.sequences[0].drafts, 2);
  Commit(guess, {{9}});
  EXPECT_EQ(scheduler_->PageHash(page), 0u);
  Commit(Plan(), {{8}});
  Commit(Plan(), {{7}});
  EXPECT_NE(scheduler_->PageHash(page), 0u);
}

TEST_F(SchedulerDraftsTest, AResultThatBreaksTheContractIsAnError) {
  Start({8, 64, 1, 1});
  Add({1, 2, 3, 1, 2}, 20);
  Commit(Plan(), {{3}});
  const StepPlan plan = Plan();
  ASSERT_THAT(plan.sequences[0].tokens, ElementsAre(3, 1, 2));
  const auto refused = [&](std::vector<int32_t> drawn) {
    StepResult result{plan.step_id, plan.epoch, {{1, {}, {}}}, {}};
    for (const int32_t token : drawn) result.sequences[0].sampled.push_back({token, 1.0f, {}});
    return !scheduler_->Commit(result).ok();
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({1, 2, 3, 4})) << "more than were asked for";
  EXPECT_TRUE(refused({9, 2})) << "went on behind a wrong draft";
  EXPECT_TRUE(refused({1, 300}));
  EXPECT_FALSE(refused({1, 2, 3}));
}

}  // namespace
}  // namespace echelon
