#pragma once
// What the scheduler's tests share: sequences, plans one at a time, and a worker whose draws the
// test chooses. Invariants are checked after every plan and every commit.

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "coordinator/scheduler.h"
#include "tests/unit/coordinator/coordinator_rig.h"

namespace echelon::testing {

class SchedulerFixture : public ::testing::Test {
 protected:
  void Start(SchedulerLimits limits, SchedulerCapacity capacity = {100, 4, 200, 300}) {
    scheduler_ = std::make_unique<Scheduler>(limits);
    scheduler_->Start(1, capacity);
  }
  Sequence& AddRequest(Request request, std::vector<int32_t> prompt) {
    const int32_t max_tokens = request.max_tokens.value();
    sequences_.push_back(
        std::make_unique<Sequence>(sequences_.size() + 1, std::move(request), tokenizer_));
    sequences_.back()->SetPrompt(std::move(prompt), max_tokens);
    scheduler_->Add(sequences_.back().get());
    return *sequences_.back();
  }
  // A prompt of so many tokens, others for each sequence.
  Sequence& Add(int32_t prompt_tokens, int32_t max_tokens) {
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < prompt_tokens; ++i) {
      prompt.push_back(static_cast<int32_t>(sequences_.size() + 1) * 10 % 250 + i % 10);
    }
    return AddRequest(MakeRequest({}, max_tokens), std::move(prompt));
  }
  StepPlan Plan() {
    auto plan = scheduler_->Plan(1);
    scheduler_->CheckInvariants();
    EXPECT_TRUE(plan.has_value());
    return plan.value_or(StepPlan());
  }
  // A worker that draws next_token_ for everyone.
  StepResult ResultOf(const StepPlan& plan) const {
    StepResult result{plan.step_id, plan.epoch, {}, {}};
    for (const SequenceStep& step : plan.sequences) {
      result.sequences.push_back({step.id, {}, {}});
      if (!step.sample) continue;
      const size_t first = step.tokens.size() - step.drafts;
      size_t right = 0;
      while (first + right < step.tokens.size() && step.tokens[first + right] == next_token_) {
        ++right;
      }
      result.sequences.back().sampled.assign(right + 1, {next_token_, 2.0f, {}});
    }
    return result;
  }
  void Commit(const StepPlan& plan) { CommitResult(ResultOf(plan)); }
  // The worker drew these tokens for each sequence of the plan.
  void Commit(const StepPlan& plan, const std::vector<std::vector<int32_t>>& drawn) {
    StepResult result{plan.step_id, plan.epoch, {}, {}};
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      result.sequences.push_back({plan.sequences[i].id, {}, {}});
      for (const int32_t token : drawn.at(i)) {
        result.sequences.back().sampled.push_back({token, 2.0f, {}});
      }
    }
    CommitResult(result);
  }
  void CommitResult(const StepResult& result) {
    auto items = scheduler_->Commit(result);
    ASSERT_TRUE(items.ok()) << items.error().message;
    for (const CommitItem& item : *items) {
      if (item.proof) {
        ++proofs_;
        EXPECT_TRUE(item.sequence->MatchesLog(item.log_index, item.result->sampled[0]));
      }
      for (const SampledToken& token : item.result->sampled) {
        if (item.sampled && !item.sequence->finished()) item.sequence->Append(token, 1);
      }
      if (item.sequence->finished()) scheduler_->Remove(item.sequence->id());
    }
    scheduler_->CheckInvariants();
  }
  // Runs to the end, one plan at a time.
  void Drain() {
    for (int i = 0; i < 1000; ++i) {
      auto plan = scheduler_->Plan(1);
      if (!plan) return;
      Commit(*plan);
    }
    FAIL() << "never idle";
  }

  ByteTokenizer tokenizer_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  int32_t next_token_ = 'x';
  int proofs_ = 0;
};

}  // namespace echelon::testing
