#pragma once
// Executor: one rank's share of every step. Holds the rank's weights, KV memory, decoder and
// sampler; StepPlan in, StepResult out, policy nowhere. One thread drives it; every rank of the
// world runs the same plans in the same order, and blocks inside Run only on its peers.
//
// Start, on every rank:   LoadWeights -> Executor::Create -> (agree on pages()) -> Run, Run, ...

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/clock.h"
#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/result.h"
#include "common/step.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/comm/step_comm.h"
#include "worker/token_split.h"
#include "worker/weights.h"

namespace echelon {

struct ExecutorOptions {
  ParallelLayout layout;
  int rank = 0;
  int step_tokens_max = 512;  // rows of one step
  int sequences_max = 64;     // known at once
  int context_max = 0;        // positions of one sequence; 0 = the model's own
  int page_tokens = 16;
  KvType kv_type = KvType::kF16;
  // Of this rank; 0 = a quarter of what is free on its host, or nine tenths of what its steps'
  // buffers leave free on its device; free memory is divided by the ranks that have it together and
  // have loaded their weights.
  uint64_t kv_memory_bytes = 0;
  int ranks_on_memory = 1;
  StepCommOptions comm;  // how the ranks' tensors travel
  // Sequence parallelism: most positions of a rank in one message round the ring. kRingMessages
  // of one layer are held: for 768 bytes a position and layer (a 135M model) 2.3 MiB.
  int ring_tokens = 1024;
  // Whether the rows of a step are computed in two parts, so that all-reduces of one hide behind
  // the other. auto measures as the executor is made.
  TokenSplitMode token_split = TokenSplitMode::kOff;
};

class Executor {
 public:
  // Collective over `world`, whose rank and size are the layout's. `model` is the checkpoint's
  // configuration with any schedule override applied. The world, backend and clock outlive the
  // executor. An error on one rank is that rank's own: the caller ends the group.
  static Result<std::unique_ptr<Executor>> Create(const ModelConfig& model,
                                                  const ExecutorOptions& options, Weights weights,
                                                  Backend& backend, Communicator& world,
                                                  const Clock& clock);
  ~Executor();

  // Runs this rank's part of the plans: each begins and ends, in their order. End() returns the
  // oldest's result on the result rank alone (last stage, tp 0), nothing elsewhere. A plan that
  // contradicts the state (unknown sequence, page out of range, ...) is an error on every rank
  // alike, before any of them computes or communicates: the executor is unchanged and could go on.
  // (A worker ends all the same: such a plan is the coordinator's mistake, and a new epoch starts
  // from what the token log knows.)
  //
  // A rank on a device takes a plan while it computes another, where there is one stage and all its
  // messages take their places in the device's stream: as the plan begins its ops are enqueued,
  // tokens that the device is about to draw included, so that the device goes on while the host
  // reads. (A step of which the host draws or scores runs when it ends, as every step does
  // elsewhere.) Nothing but the time depends on it; ranks need not be equally far.
  bool TakesPlan() const;  // Begin may be called
  void Begin(StepPlan plan);
  int begun() const;  // and not ended
  // End() would not wait for the device; 0 < begun().
  bool Done() const;
  Result<std::optional<StepResult>> End();
  // Both, with nothing begun.
  Result<std::optional<StepResult>> Run(StepPlan plan) {
    Begin(std::move(plan));
    return End();
  }

  int pages() const;                   // of the KV caches of all sp ranks: the same on all ranks
  int context_max() const;             // positions of one sequence
  uint64_t kv_bytes() const;           // of this rank
  uint64_t kv_position_bytes() const;  // of one position, all layers of this rank
  uint64_t buffer_bytes() const;       // what steps are computed in (common/step_buffers.h)
  bool is_result_rank() const;
  std::string DescribeTokenSplit() const;  // "" where nothing was measured
  std::string DescribePages() const;       // "" where all ranks have memory for the same

 private:
  class Impl;
  explicit Executor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The rank that returns StepResults: last stage, tp index 0.
int ResultRank(const ParallelLayout& layout);

}  // namespace echelon
