#pragma once
// A rank of a tiny model on an emulated device whose runtime is watched, and plans for it.

#include <memory>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/rank_part.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda/watched_runtime.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"
#include "worker/executor.h"

namespace echelon::testing {

struct AheadRank {
  cuda::WatchedRuntime* watched = nullptr;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Executor> executor;
};

// A rank of a tensor-parallel group; collective over `world`.
inline AheadRank MakeAheadRank(const Checkpoint& checkpoint, Communicator& world,
                               const StepCommOptions& comm, const Clock& clock) {
  AheadRank rank;
  auto runtime = std::make_unique<cuda::WatchedRuntime>(cuda::MakeRuntime());
  rank.watched = runtime.get();
  rank.backend = std::make_unique<cuda::CudaBackend>(
      cuda::Device::Open(std::move(runtime), world.rank()).value(), 1);
  const ModelConfig& model = checkpoint.config();
  ExecutorOptions options;
  options.layout.tp = world.size();
  options.rank = world.rank();
  options.page_tokens = 8;
  options.context_max = 96;
  options.kv_memory_bytes = 4 << 20;
  options.comm = comm;
  Weights weights = LoadWeights(checkpoint, model, PartOf(model, options.layout, options.rank),
                                uint64_t{1} << 30, *rank.backend)
                        .value();
  rank.executor =
      Executor::Create(model, options, std::move(weights), *rank.backend, world, clock).value();
  return rank;
}

inline SequenceStep Prompt(SequenceId id, std::vector<int32_t> tokens,
                           const SamplingParams& params = Greedy()) {
  SequenceStep step;
  step.id = id;
  step.first = step.sample = true;
  step.params = params;
  step.prompt_tokens = static_cast<int32_t>(tokens.size());
  step.tokens = std::move(tokens);
  step.new_pages = {static_cast<int32_t>(2 * id), static_cast<int32_t>(2 * id + 1)};
  return step;
}

inline StepPlan Plan(uint64_t step_id, std::vector<SequenceStep> steps,
                     std::vector<SequenceId> released = {}) {
  StepPlan plan;
  plan.step_id = step_id;
  plan.sequences = std::move(steps);
  plan.released = std::move(released);
  return plan;
}

}  // namespace echelon::testing
