#pragma once
// SoloRank: one rank of a group of two on a device, alone, its partner behind an emulated link,
// with the sequences that it runs. What it computes is real; so is when it waits. One thread drives
// it.

#include <memory>
#include <vector>

#include "common/clock.h"
#include "common/model/checkpoint.h"
#include "kernels/backend.h"
#include "tests/gpu/emulated_link.h"
#include "worker/comm/solo_comm.h"
#include "worker/executor.h"
#include "worker/trace.h"

namespace echelon::bench {

struct SoloOptions {
  BackendOptions backend;
  ParallelLayout layout;  // of two ranks: tp = 2 or sp = 2
  TokenSplitMode split = TokenSplitMode::kOff;
  int streams = 1;       // sequences at once, at most
  int positions = 0;     // of each, at most
  int step_rows = 2048;  // of a step, at most
  // Where given, its steps are timed op by op (kernels/timed_backend.h); it outlives the rank.
  Trace* trace = nullptr;
};

// What a number of steps took.
struct StepTimes {
  std::vector<double> seconds;  // of each, by the host's clock
  LinkTraffic traffic;          // of all
  // Of all, where the backend is timed: in the link's operations while ops went on, and while the
  // stream stood still.
  double hidden_s = 0.0, exposed_s = 0.0;
  int keys_passed = 0;  // attentions whose keys and values went round (sp)
  // Tokens and their raw logits, in the order they were drawn.
  std::vector<int32_t> tokens;
  std::vector<float> logits;

  double Sum() const;
  double Median() const;
};

class SoloRank {
 public:
  static Result<std::unique_ptr<SoloRank>> Start(const Checkpoint& checkpoint,
                                                 const ModelConfig& model,
                                                 const SoloOptions& options);

  // From now on.
  void SetLink(const LinkSpeed& speed) { link_->Set(speed); }
  // Forgets all sequences; new ones with prompts of so many tokens, each of its own. The steps of
  // all prompts, in chunks of at most step_rows.
  Result<StepTimes> Prompt(int streams, int tokens);
  // Steps that draw a token of each, the first few of them not timed.
  Result<StepTimes> Decode(int steps);

 private:
  explicit SoloRank(const SoloOptions& options);
  StepPlan NewPlan();
  SequenceStep Rows(int stream, int begin, int count, int prompt);
  Result<StepTimes> Run(const std::vector<StepPlan>& plans, int untimed);

  const SoloOptions options_;
  const SystemClock clock_;
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<EmulatedLink> link_;
  std::unique_ptr<Executor> executor_;
  uint64_t steps_ = 0;
  int streams_ = 0, length_ = 0;  // sequences there are, their positions
  SequenceId first_ = 1;          // of them
};

}  // namespace echelon::bench
