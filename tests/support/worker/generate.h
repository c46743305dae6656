#pragma once
// Generation over a group of ranks for tests: a scheduler of the plainest kind. Every step takes,
// for each sequence that is due, the next chunk of its known tokens, or one decode; plans can be
// posted ahead of their results, and sequences spread over alternating plans, as a pipeline wants
// it.

#include <cstdint>
#include <vector>

#include "common/step.h"
#include "worker/local_group.h"

namespace echelon::testing {

struct Wish {
  std::vector<int32_t> prompt;
  std::vector<int32_t> forced;  // tokens generated before, replayed as generated ones
  int max_tokens = 16;          // drawn, the forced ones not counted
  int32_t eos = -1;
  SamplingParams params;
  int begin_step = 0;  // joins the batch at this step
};

struct Answer {
  std::vector<int32_t> tokens;                 // drawn
  std::vector<float> logits;                   // of the drawn tokens
  std::vector<std::vector<TokenLogprob>> top;  // params.logprobs
  std::vector<std::vector<TokenLogprob>> prompt_top;
  bool operator==(const Answer&) const = default;
};

struct Pace {
  int chunk = 64;          // tokens of one sequence's prefill step
  int plans_ahead = 0;     // posted before the result of the one before is taken
  int alternate = 1;       // sequence i is in plans n with n % alternate == i % alternate
  uint64_t page_seed = 0;  // 0: pages in ascending order, else shuffled
  // Speculation: up to `drafts` guesses a step, of the tokens in `guess` (by wish), a quarter of
  // them made wrong. Needs plans_ahead 0: the last token has to be known.
  int drafts = 0;
  const std::vector<Answer>* guess = nullptr;
  uint64_t draft_seed = 1;
};

// Greedy parameters, for short tests.
inline SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0.0f;
  return params;
}

// The sequence's next step: of the token that its last one drew, which is not known yet.
inline SequenceStep Decode(SequenceId id, int32_t position) {
  SequenceStep step;
  step.id = id;
  step.start_position = position;
  step.tokens = {kTokenFromLastStep};
  step.sample = true;
  return step;
}

// What runs plans, as LocalGroup does: all ranks, or one that is a process of its own and is given
// the same plans as the others.
class PlanRunner {
 public:
  virtual ~PlanRunner() = default;
  virtual void Post(const StepPlan& plan) = 0;
  virtual Result<StepResult> Take() = 0;
  virtual int pages() const = 0;  // of all sp ranks
  virtual int sp() const = 0;
};

class LocalGroupRunner final : public PlanRunner {
 public:
  explicit LocalGroupRunner(LocalGroup& group) : group_(group) {}
  void Post(const StepPlan& plan) override { group_.Post(plan); }
  Result<StepResult> Take() override { return group_.Take(); }
  int pages() const override { return group_.pages(); }
  int sp() const override { return group_.sp(); }

 private:
  LocalGroup& group_;
};

// All wishes together; a failed step fails the program with its message. Leaves the group empty.
// Plans depend on the wishes and the pace alone, but where a draft or an end of sequence does.
std::vector<Answer> Generate(PlanRunner& runner, const std::vector<Wish>& wishes, int page_tokens,
                             const Pace& pace = {});
inline std::vector<Answer> Generate(LocalGroup& group, const std::vector<Wish>& wishes,
                                    int page_tokens, const Pace& pace = {}) {
  LocalGroupRunner runner(group);
  return Generate(runner, wishes, page_tokens, pace);
}

}  // namespace echelon::testing
