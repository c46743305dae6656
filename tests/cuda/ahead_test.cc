// A plan's ops are enqueued before the plan ahead of it is waited for, tokens that the device is
// yet to draw included; where the host has to keep logits they are not; and each step's errors are
// its own. The emulation runs nothing before it is waited for, so what is written over too early
// shows.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cuda/ahead_rank.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

using testing::Decode;
using ::testing::HasSubstr;
using testing::Prompt;

class CudaAhead : public ::testing::Test {
 protected:
  StepPlan Plan(std::vector<SequenceStep> steps, std::vector<SequenceId> released = {}) {
    return testing::Plan(++steps_, std::move(steps), std::move(released));
  }
  // Ends the oldest step; the token of its sequence `which`.
  int32_t End(size_t which = 0) {
    const auto result = executor_->End();
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? (*result)->sequences.at(which).sampled.at(0).token : -1;
  }
  // The tokens of a prompt, one step at a time.
  std::vector<int32_t> OneByOne(const std::vector<int32_t>& prompt, int tokens,
                                const SamplingParams& params = testing::Greedy()) {
    std::vector<int32_t> got;
    const auto length = static_cast<int32_t>(prompt.size());
    for (int i = 0; i < tokens; ++i) {
      executor_->Begin(Plan({i == 0 ? Prompt(9, prompt, params) : Decode(9, length + i - 1)}));
      got.push_back(End());
    }
    executor_->Begin(Plan({}, {9}));
    EXPECT_TRUE(executor_->End().ok());
    return got;
  }

  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_ = TinyDummy({}, folder_.path());
  const SystemClock clock_;
  std::vector<std::unique_ptr<Communicator>> world_ = MakeLocalCommunicators(1);
  testing::AheadRank rank_ = testing::MakeAheadRank(*checkpoint_, *world_[0], {}, clock_);
  cuda::WatchedRuntime* const watched_ = rank_.watched;
  Executor* const executor_ = rank_.executor.get();
  uint64_t steps_ = 0;
};

const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5};
const std::vector<int32_t> kOther = {2, 7, 1, 8, 2, 8};

TEST_F(CudaAhead, TheNextStepIsEnqueuedBeforeTheLastIsWaitedFor) {
  const std::vector<int32_t> want = OneByOne(kPrompt, 6);
  executor_->Begin(Plan({Prompt(1, kPrompt)}));
  for (int i = 1; i < 6; ++i) {
    const size_t kernels = emulation::KernelsEnqueued();
    const int recorded = watched_->events_recorded, awaited = watched_->events_awaited;
    const int streams = watched_->streams_awaited;
    ASSERT_TRUE(executor_->TakesPlan());
    executor_->Begin(Plan({Decode(1, 4 + i)}));
    EXPECT_FALSE(executor_->TakesPlan());
    EXPECT_GT(emulation::KernelsEnqueued(), kernels);
    EXPECT_EQ(watched_->events_recorded, recorded + 1);
    EXPECT_EQ(watched_->events_awaited, awaited);
    EXPECT_EQ(End(), want[i - 1]) << i;
    EXPECT_EQ(watched_->events_awaited, awaited + 1);
    // Graphs that are dropped and memory that grows would wait; nothing of a usual step does.
    EXPECT_EQ(watched_->streams_awaited, streams) << i;
  }
  EXPECT_FALSE(executor_->Done());  // nothing of it has run
  EXPECT_EQ(End(), want[5]);
  EXPECT_EQ(executor_->begun(), 0);
}

TEST_F(CudaAhead, ASequenceMayJoinAndChunksMayPass) {
  const std::vector<int32_t> one = OneByOne(kPrompt, 4), other = OneByOne(kOther, 2);
  executor_->Begin(Plan({Prompt(1, kPrompt)}));
  SequenceStep chunk = Prompt(2, {kOther.begin(), kOther.begin() + 4});
  chunk.prompt_tokens = 6;
  chunk.sample = false;
  executor_->Begin(Plan({chunk, Decode(1, 5)}));
  EXPECT_EQ(End(), one[0]);
  SequenceStep rest = Decode(2, 4);
  rest.tokens.assign(kOther.begin() + 4, kOther.end());
  executor_->Begin(Plan({Decode(1, 6), rest}));
  EXPECT_EQ(End(1), one[1]);
  executor_->Begin(Plan({Decode(2, 6), Decode(1, 7)}));
  const auto both = executor_->End();
  EXPECT_EQ((*both)->sequences[0].sampled[0].token, one[2]);
  EXPECT_EQ((*both)->sequences[1].sampled[0].token, other[0]);
  const auto last = executor_->End();
  EXPECT_EQ((*last)->sequences[0].sampled[0].token, other[1]);
  EXPECT_EQ((*last)->sequences[1].sampled[0].token, one[3]);
}

// The plan behind gives up the sequence whose token is still to come, and its pages to another.
TEST_F(CudaAhead, AReleasedSequencesTokenIsStillReported) {
  const std::vector<int32_t> one = OneByOne(kPrompt, 2), other = OneByOne(kOther, 1);
  executor_->Begin(Plan({Prompt(1, kPrompt)}));
  SequenceStep on_its_pages = Prompt(2, kOther);
  on_its_pages.new_pages = Prompt(1, kPrompt).new_pages;
  executor_->Begin(Plan({on_its_pages}, {1}));
  EXPECT_EQ(End(), one[0]);
  executor_->Begin(Plan({Prompt(1, kPrompt)}, {2}));  // anew
  EXPECT_EQ(End(), other[0]);
  executor_->Begin(Plan({Decode(1, 5)}));
  EXPECT_EQ(End(), one[0]);
  EXPECT_EQ(End(), one[1]);
}

// The token that the device is yet to draw is one of those that a penalty counts.
TEST_F(CudaAhead, PenaltiesCountTheTokenThatIsStillToCome) {
  SamplingParams params = testing::Greedy();
  params.presence_penalty = 2.0f;
  params.frequency_penalty = 1.0f;
  params.logprobs = 3;
  const std::vector<int32_t> want = OneByOne(kPrompt, 8, params);
  EXPECT_NE(want, OneByOne(kPrompt, 8));
  executor_->Begin(Plan({Prompt(1, kPrompt, params)}));
  for (int i = 1; i < 8; ++i) {
    const size_t kernels = emulation::KernelsEnqueued();
    executor_->Begin(Plan({Decode(1, 4 + i)}));
    EXPECT_GT(emulation::KernelsEnqueued(), kernels);
    EXPECT_EQ(End(), want[i - 1]) << i;
  }
  EXPECT_EQ(End(), want[7]);
}

// A prompt that comes whole is scored by the device; of a chunk the host keeps the last row until
// it knows what follows.
TEST_F(CudaAhead, WhatTheHostKeepsWaits) {
  SamplingParams scored = testing::Greedy();
  scored.prompt_logprobs = 2;
  const auto begin_behind = [&](const SequenceStep& prompt) {
    executor_->Begin(Plan({Prompt(1, kPrompt)}, {}));
    const size_t kernels = emulation::KernelsEnqueued();
    executor_->Begin(Plan({Decode(1, 5), prompt}));
    return emulation::KernelsEnqueued() - kernels;
  };
  EXPECT_GT(begin_behind(Prompt(2, kOther, scored)), 0u);
  const int32_t first = End();
  const auto whole = executor_->End();
  const std::vector<int32_t> tokens = {first, (*whole)->sequences[0].sampled[0].token};
  EXPECT_EQ((*whole)->sequences[1].prompt_top.size(), kOther.size() - 1);
  executor_->Begin(Plan({}, {1, 2}));
  EXPECT_TRUE(executor_->End().ok());

  SequenceStep chunk = Prompt(2, {kOther.begin(), kOther.begin() + 4}, scored);
  chunk.prompt_tokens = static_cast<int32_t>(kOther.size());
  chunk.sample = false;
  EXPECT_EQ(begin_behind(chunk), 0u);
  EXPECT_EQ(End(), first);
  EXPECT_TRUE(executor_->Done());
  const auto part = executor_->End();
  EXPECT_EQ((*part)->sequences[0].sampled[0].token, tokens[1]);
  SequenceStep rest = Decode(2, 4);
  rest.tokens.assign(kOther.begin() + 4, kOther.end());
  executor_->Begin(Plan({rest}));
  auto both = (*part)->sequences[1].prompt_top;
  const auto end = executor_->End();
  for (const auto& top : (*end)->sequences[0].prompt_top) both.push_back(top);
  EXPECT_EQ(both, (*whole)->sequences[1].prompt_top);
  EXPECT_EQ(OneByOne(kPrompt, 2), tokens);
}

TEST_F(CudaAhead, AStepsErrorIsItsOwn) {
  const std::vector<int32_t> want = OneByOne(kPrompt, 1);
  executor_->Begin(Plan({Prompt(1, kPrompt)}));
  StepPlan wrong = Plan({Decode(77, 5)});
  executor_->Begin(wrong);
  EXPECT_EQ(End(), want[0]);
  EXPECT_THAT(executor_->End().error().message, HasSubstr("sequence 77: is not known"));
  executor_->Begin(Plan({Decode(1, 5)}));
  watched_->last_error = {cuda::Failure::kOther, 9, "cudaErrorInvalidConfiguration"};
  executor_->Begin(Plan({Decode(1, 6)}));  // its launches fail
  EXPECT_GE(End(), 0);
  EXPECT_THAT(executor_->End().error().message, HasSubstr("cudaErrorInvalidConfiguration"));
}

TEST_F(CudaAhead, AnErrorOnTheDeviceIsTheStepsThatRan) {
  executor_->Begin(Plan({Prompt(1, kPrompt)}));
  executor_->Begin(Plan({Decode(1, 5)}));
  EXPECT_GE(End(), 0);
  watched_->event_awaited = {cuda::Failure::kOther, 700, "cudaErrorIllegalAddress"};
  EXPECT_THAT(executor_->End().error().message, HasSubstr("cudaErrorIllegalAddress"));
  EXPECT_FALSE(rank_.backend->Health().ok());
}

}  // namespace
}  // namespace echelon
