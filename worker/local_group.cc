#include "worker/local_group.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "common/rank_part.h"
#include "worker/comm/local_comm.h"
#include "worker/weights.h"

namespace echelon {

namespace {

constexpr std::chrono::microseconds kMoveOnEvery{200};

// The same answer on every rank: this rank's error, else another's, so that no rank goes on alone.
Status Agree(Status mine, Communicator& world) {
  const uint8_t failed = mine.ok() ? 0 : 1;
  std::vector<uint8_t> all(world.size());
  world.Wait(world.AllGather(&failed, all.data(), sizeof(failed)));
  if (!mine.ok() || std::count(all.begin(), all.end(), 0) == world.size()) return mine;
  return InternalError("another rank of the group could not start");
}

}  // namespace

Result<std::unique_ptr<LocalGroup>> LocalGroup::Start(const Checkpoint& checkpoint,
                                                      const ModelConfig& model,
                                                      const LocalGroupOptions& options) {
  RETURN_IF_ERROR(model.Validate());
  RETURN_IF_ERROR(options.layout.Validate(model));
  const int world = options.layout.world();
  std::unique_ptr<LocalGroup> group(new LocalGroup());
  group->plans_.resize(world);
  group->sp_ = options.layout.sp;
  group->endpoints_ = MakeLocalCommunicators(world);
  for (int rank = 0; rank < world; ++rank) {
    group->threads_.emplace_back([&group = *group, &checkpoint, &model, &options, rank] {
      group.RunRank(checkpoint, model, options, *group.endpoints_[rank]);
    });
  }
  std::unique_lock lock(group->mutex_);
  group->changed_.wait(lock, [&] { return static_cast<int>(group->started_.size()) == world; });
  std::optional<Error> failure;
  for (const Status& status : group->started_) {
    if (status.ok()) continue;
    // A rank's own reason says more than "another rank".
    if (!failure || failure->code == ErrorCode::kInternal) failure = status.error();
  }
  lock.unlock();
  if (failure) return *failure;
  return group;
}

LocalGroup::~LocalGroup() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Result<std::unique_ptr<Executor>> LocalGroup::StartRank(const Checkpoint& checkpoint,
                                                        const ModelConfig& model,
                                                        const LocalGroupOptions& options,
                                                        Communicator& world,
                                                        std::unique_ptr<Backend>& backend) {
  ExecutorOptions executor = options.executor;
  executor.layout = options.layout;
  executor.rank = world.rank();
  executor.ranks_on_host = world.size();
  const auto load = [&]() -> Result<Weights> {
    const std::lock_guard lock(loading_);
    BackendOptions chosen = options.backend;
    chosen.ranks = world.size();
    ASSIGN_OR_RETURN(backend, MakeBackend(chosen));
    const RankPart part = PartOf(model, options.layout, world.rank());
    const uint64_t memory = options.weight_memory_bytes > 0
                                ? options.weight_memory_bytes
                                : backend->FreeMemoryBytes() / world.size();
    return LoadWeights(checkpoint, model, part, memory, *backend);
  };
  Result<Weights> weights = load();
  RETURN_IF_ERROR(Agree(weights.ok() ? Status() : Status(weights.error()), world));
  auto made =
      Executor::Create(model, executor, std::move(weights).value(), *backend, world, clock_);
  RETURN_IF_ERROR(Agree(made.ok() ? Status() : Status(made.error()), world));
  return made;
}

void LocalGroup::RunRank(const Checkpoint& checkpoint, const ModelConfig& model,
                         const LocalGroupOptions& options, Communicator& world) {
  std::unique_ptr<Backend> backend;
  auto executor = StartRank(checkpoint, model, options, world, backend);
  {
    const std::lock_guard lock(mutex_);
    started_.push_back(executor.ok() ? Status() : Status(executor.error()));
    if (executor.ok()) {
      pages_ = (*executor)->pages();
      context_max_ = (*executor)->context_max();
    }
  }
  changed_.notify_all();
  if (executor.ok()) RunPlans(**executor, world);
}

void LocalGroup::RunPlans(Executor& executor, Communicator& world) {
  for (;;) {
    if (executor.begun() == 0 || (executor.TakesPlan() && !executor.Done())) {
      std::optional<StepPlan> plan = NextPlan(world, executor.begun() == 0);
      if (plan) {
        executor.Begin(*std::move(plan));
      } else if (executor.begun() == 0) {
        return;
      } else {
        std::this_thread::yield();  // the device computes
      }
      continue;
    }
    Result<std::optional<StepResult>> result = executor.End();
    if (!executor.is_result_rank()) continue;
    {
      const std::lock_guard lock(mutex_);
      if (result.ok()) {
        results_.push_back(**std::move(result));
      } else {
        results_.push_back(result.error());
      }
    }
    changed_.notify_all();
  }
}

std::optional<StepPlan> LocalGroup::NextPlan(Communicator& world, bool wait) {
  std::deque<StepPlan>& plans = plans_[world.rank()];
  std::unique_lock lock(mutex_);
  const auto plan_is_there = [&] { return !plans.empty(); };
  // Awake as long as a message has something left to send, and not gone before: plans that were
  // posted run to their end, and another rank may wait for it.
  for (bool sends = wait; sends && !plan_is_there();) {
    lock.unlock();  // others post and take meanwhile
    sends = world.MoveOn();
    lock.lock();
    if (sends) changed_.wait_for(lock, kMoveOnEvery, plan_is_there);
  }
  if (wait) changed_.wait(lock, [&] { return stopping_ || plan_is_there(); });
  if (!plan_is_there()) return std::nullopt;
  StepPlan plan = std::move(plans.front());
  plans.pop_front();
  return plan;
}

void LocalGroup::Post(const StepPlan& plan) {
  {
    const std::lock_guard lock(mutex_);
    for (auto& queue : plans_) queue.push_back(plan);
  }
  changed_.notify_all();
}

Result<StepResult> LocalGroup::Take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !results_.empty(); });
  Result<StepResult> result = std::move(results_.front());
  results_.pop_front();
  return result;
}

}  // namespace echelon
