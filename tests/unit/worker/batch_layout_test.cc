#include "worker/batch_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

using testing::Decode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

PlanLimits Limits() {
  PlanLimits limits;
  limits.step_tokens_max = 16;
  limits.sequences_max = 3;
  limits.pages = 10;
  limits.page_tokens = 4;
  limits.context_max = 24;
  limits.vocab_size = 100;
  return limits;
}

SequenceStep First(SequenceId id, std::vector<int32_t> tokens, std::vector<int32_t> pages) {
  SequenceStep step;
  step.id = id;
  step.tokens = std::move(tokens);
  step.new_pages = std::move(pages);
  step.first = true;
  step.prompt_tokens = 6;
  return step;
}

StepPlan Plan(std::vector<SequenceStep> steps) {
  StepPlan plan;
  plan.step_id = 12;
  plan.sequences = std::move(steps);
  return plan;
}

// Sequence 1 has run positions 0..4 over pages 7 and 2, and sampled; 2 has run 0..1 and not.
class BatchLayoutTest : public ::testing::Test {
 protected:
  BatchLayoutTest() {
    SequenceStep one = First(1, {10, 11, 12, 13, 14}, {7, 2});
    one.sample = true;
    ApplyPlan(Plan({one, First(2, {20, 21}, {5})}), table_);
  }
  std::string Refusal(const StepPlan& plan) const {
    const Status status = CheckPlan(plan, table_, Limits());
    return status.ok() ? "accepted" : status.error().message;
  }
  SequenceTable table_;
};

TEST_F(BatchLayoutTest, RowsFollowThePlan) {
  SequenceStep chunk;
  chunk.id = 2;
  chunk.start_position = 2;
  chunk.tokens = {22, 23, 24};
  chunk.new_pages = {9};
  const StepPlan plan = Plan({Decode(1, 5), chunk, First(3, {30}, {0, 1})});
  ASSERT_EQ(Refusal(plan), "accepted");
  ApplyPlan(plan, table_);
  const BatchLayout batch = MakeBatch(plan, table_, 4);
  EXPECT_THAT(batch.ids, ElementsAre(kTokenFromLastStep, 22, 23, 24, 30));
  EXPECT_THAT(batch.positions, ElementsAre(5, 2, 3, 4, 0));
  EXPECT_THAT(batch.sequences, ElementsAre(0, 1, 1, 1, 2));
  EXPECT_THAT(batch.page_begin, ElementsAre(0, 2, 4, 5));
  EXPECT_THAT(batch.pages, ElementsAre(7, 2, 5, 9, 0));  // page 1 holds nothing yet

  const StepRows views = batch.step_rows(1, 3);
  EXPECT_THAT(views.ids, ElementsAre(22, 23));
  EXPECT_THAT(views.rows.positions, ElementsAre(2, 3));
  EXPECT_THAT(views.rows.sequences, ElementsAre(1, 1));
  EXPECT_EQ(views.rows.pages.size(), batch.pages.size());
  const BatchLayout cut = CutBatch(batch, 2, 5);  // sequence 1 has none of these rows
  EXPECT_THAT(cut.ids, ElementsAre(23, 24, 30));
  EXPECT_THAT(cut.positions, ElementsAre(3, 4, 0));
  EXPECT_THAT(cut.sequences, ElementsAre(0, 0, 1));
  EXPECT_THAT(cut.page_begin, ElementsAre(0, 2, 3));
  EXPECT_THAT(cut.pages, ElementsAre(5, 9, 0));
  ASSERT_EQ(cut.steps.size(), 2u);
  EXPECT_EQ(cut.steps[0].id, 2u);
  EXPECT_EQ(cut.steps[0].end, 2);
  EXPECT_EQ(cut.steps[1].begin, 2);
  EXPECT_EQ(batch.steps[1].begin, 1);
  EXPECT_EQ(batch.steps[1].end, 4);
}

TEST_F(BatchLayoutTest, AReleasedSequenceMayBeginAgain) {
  StepPlan plan = Plan({First(1, {10}, {3})});
  EXPECT_THAT(Refusal(plan), HasSubstr("called new but is known"));
  plan.released = {1};
  EXPECT_EQ(Refusal(plan), "accepted");
  ApplyPlan(plan, table_);
  EXPECT_EQ(table_[1].length, 1);
  EXPECT_THAT(table_[1].pages, ElementsAre(3));
}

TEST_F(BatchLayoutTest, RefusesPlansThatContradictTheState) {
  StepPlan release = Plan({});
  release.released = {9};
  EXPECT_THAT(Refusal(release), HasSubstr("releases sequence 9"));
  release.released = {1, 1};
  EXPECT_THAT(Refusal(release), HasSubstr("releases sequence 1"));
  EXPECT_THAT(Refusal(Plan({Decode(9, 0)})), HasSubstr("not known"));
  EXPECT_THAT(Refusal(Plan({Decode(1, 5), Decode(1, 6)})), HasSubstr("appears twice"));
  EXPECT_THAT(Refusal(Plan({Decode(1, 4)})), HasSubstr("5 have been run"));
  EXPECT_THAT(Refusal(Plan({Decode(1, 6)})), HasSubstr("5 have been run"));
  EXPECT_THAT(Refusal(Plan({Decode(2, 2)})), HasSubstr("sampled none"));
  SequenceStep late = Decode(1, 5);
  late.tokens = {3, kTokenFromLastStep};
  EXPECT_THAT(Refusal(Plan({late})), HasSubstr("sampled none"));
  EXPECT_THAT(Refusal(Plan({First(3, {}, {1})})), HasSubstr("no tokens"));
  EXPECT_THAT(Refusal(Plan({First(3, {kTokenFromLastStep}, {1})})), HasSubstr("sampled none"));
}

TEST_F(BatchLayoutTest, DraftsMayBeTakenBack) {
  SequenceStep guess = Decode(1, 5);
  guess.tokens = {15, 16, 17};
  guess.drafts = 2;
  ASSERT_EQ(Refusal(Plan({guess})), "accepted");
  ApplyPlan(Plan({guess}), table_);
  SequenceStep blind = Decode(1, 8);
  blind.new_pages = {3};
  EXPECT_THAT(Refusal(Plan({blind})), HasSubstr("sampled none")) << "which was the last?";
  const auto go_on_at = [&](int32_t position) {
    SequenceStep step = Decode(1, position);
    step.tokens = {30};
    step.new_pages = {3};
    return step;
  };
  EXPECT_THAT(Refusal(Plan({go_on_at(5)})), HasSubstr("8 have been run, the last 2 as drafts"));
  EXPECT_THAT(Refusal(Plan({go_on_at(9)})), HasSubstr("8 have been run"));
  for (const int32_t kept : {6, 7, 8}) EXPECT_EQ(Refusal(Plan({go_on_at(kept)})), "accepted");
  ApplyPlan(Plan({go_on_at(6)}), table_);
  EXPECT_EQ(table_[1].length, 7);
  EXPECT_EQ(Refusal(Plan({Decode(1, 7)})), "accepted");
  EXPECT_THAT(Refusal(Plan({go_on_at(6)})), HasSubstr("7 have been run")) << "no longer";
}

TEST_F(BatchLayoutTest, RefusesDraftsThatCannotBe) {
  const auto refusal = [&](auto change) {
    SequenceStep step = Decode(1, 5);
    step.tokens = {15, 16};
    step.drafts = 1;
    change(step);
    return Refusal(Plan({step}));
  };
  EXPECT_EQ(refusal([](auto&) {}), "accepted");
  EXPECT_THAT(refusal([](auto& s) { s.drafts = 2; }), HasSubstr("follow exactly one"));
  EXPECT_THAT(refusal([](auto& s) { s.drafts = -1; }), HasSubstr("follow exactly one"));
  EXPECT_THAT(refusal([](auto& s) { s.tokens.push_back(17); }), HasSubstr("follow exactly one"));
  EXPECT_THAT(refusal([](auto& s) { s.sample = false; }), HasSubstr("samples nothing"));
  SequenceStep penalised = First(3, {1}, {1});
  penalised.params.frequency_penalty = 0.1f;
  ApplyPlan(Plan({penalised}), table_);
  EXPECT_THAT(refusal([](auto& s) {
                s.id = 3;
                s.start_position = 1;
              }),
              HasSubstr("penalties"));
}

TEST_F(BatchLayoutTest, RefusesWhatIsOutOfRange) {
  EXPECT_THAT(Refusal(Plan({First(3, {1}, {10})})), HasSubstr("page 10 of a cache of 10"));
  EXPECT_THAT(Refusal(Plan({First(3, {1}, {-1})})), HasSubstr("page -1"));
  EXPECT_THAT(Refusal(Plan({First(3, {1, 2, 3, 4, 5}, {1})})), HasSubstr("do not hold 5"));
  EXPECT_THAT(Refusal(Plan({First(3, {100}, {1})})), HasSubstr("token 100"));
  EXPECT_THAT(Refusal(Plan({First(3, {-2}, {1})})), HasSubstr("token -2"));
  EXPECT_THAT(Refusal(Plan({First(3, std::vector<int32_t>(17, 1), {1, 2, 3, 4, 5})})),
              HasSubstr("17 tokens; the limit is 16"));
  EXPECT_THAT(Refusal(Plan({First(3, {1}, {1}), First(4, {1}, {2})})),
              HasSubstr("4 sequences at once"));
  PlanLimits wide = Limits();
  wide.step_tokens_max = 100;
  const StepPlan long_plan = Plan({First(3, std::vector<int32_t>(25, 1), {0, 1, 2, 3, 4, 5, 6})});
  EXPECT_THAT(CheckPlan(long_plan, table_, wide).error().message, HasSubstr("limit is 24"));
}

TEST_F(BatchLayoutTest, RefusesParametersThatAreNoNumbers) {
  const auto refusal = [&](auto change) {
    SequenceStep step = First(3, {1}, {1});
    change(step);
    return Refusal(Plan({step}));
  };
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(refusal([](SequenceStep&) {}), "accepted");
  EXPECT_THAT(refusal([&](auto& s) { s.params.temperature = nan; }), HasSubstr("temperature"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.top_p = nan; }), HasSubstr("top_p"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.min_p = -0.1f; }), HasSubstr("min_p"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.top_k = -1; }), HasSubstr("top_k"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.repetition_penalty = 0; }), HasSubstr("repetition"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.presence_penalty = inf; }), HasSubstr("presence"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.frequency_penalty = nan; }), HasSubstr("frequency"));
  EXPECT_THAT(refusal([&](auto& s) {
                s.params.logit_bias = {{100, 1.0f}};
              }),
              HasSubstr("token 100"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.logit_bias = {{1, nan}}; }), HasSubstr("logit_bias"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.logprobs = 129; }), HasSubstr("-1 to 128"));
  EXPECT_THAT(refusal([&](auto& s) { s.params.prompt_logprobs = -2; }), HasSubstr("-1 to 128"));
  EXPECT_THAT(refusal([&](auto& s) { s.prompt_tokens = 0; }), HasSubstr("prompt_tokens"));
}

}  // namespace
}  // namespace echelon
