#include "tests/support/worker/process_rank.h"

#include "common/rank_part.h"
#include "common/strings.h"
#include "worker/agreement.h"
#include "worker/weights.h"

namespace echelon::testing {

ProcessRank::ProcessRank(ProcessGroup& group, Backend& backend, const Checkpoint& checkpoint,
                         const LocalGroupOptions& options)
    : group_(group), sp_(options.layout.sp), result_rank_(ResultRank(options.layout)) {
  Communicator& world = group.world();
  const ModelConfig& model = checkpoint.config();
  ExecutorOptions executor = options.executor;
  executor.layout = options.layout;
  executor.rank = world.rank();
  const MemoryShare share = ShareMemory(world, backend, world.size());
  executor.ranks_on_memory = share.ranks;
  executor.comm.host = group.host();
  group.Begin("loading its part of the model");
  Weights weights = OrFail(LoadWeights(
      checkpoint, model, PartOf(model, options.layout, world.rank()), share.free_bytes, backend));
  group.Begin("joining the other ranks");
  executor_ = OrFail(Executor::Create(model, executor, std::move(weights), backend, world, clock_));
  group.Begin("");
}

Result<StepResult> ProcessRank::Take() {
  StepPlan plan = std::move(plans_.front());
  plans_.pop_front();
  group_.Begin(StrCat("step ", plan.step_id));
  const std::optional<StepResult> mine = OrFail(executor_->Run(std::move(plan)));
  Communicator& world = group_.world();
  std::string bytes = mine ? EncodeResult(*mine) : "";
  uint64_t size = bytes.size();
  world.Wait(world.Broadcast(&size, sizeof(size), result_rank_));
  bytes.resize(size);
  world.Wait(world.Broadcast(bytes.data(), size, result_rank_));
  group_.Begin("");
  return DecodeResult(bytes);
}

}  // namespace echelon::testing
