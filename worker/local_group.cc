#include "worker/local_group.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "common/rank_part.h"
#include "common/strings.h"
#include "worker/agreement.h"
#include "worker/comm/local_comm.h"
#include "worker/weights.h"

namespace echelon {

namespace {

constexpr std::chrono::microseconds kMoveOnEvery{200};
// A plan that is refused is refused by every rank before it computes anything.
constexpr std::chrono::milliseconds kErrorsWaitMax{500};
constexpr const char* kAnotherRank = "another rank of the group could not start";

// The same answer on every rank: this rank's error, else another's, so that no rank goes on alone.
Status Agree(Status mine, Communicator& world) {
  const uint8_t failed = mine.ok() ? 0 : 1;
  std::vector<uint8_t> all(world.size());
  world.Wait(world.AllGather(&failed, all.data(), sizeof(failed)));
  if (!mine.ok() || std::count(all.begin(), all.end(), 0) == world.size()) return mine;
  return InternalError(kAnotherRank);
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
  group->ended_.resize(world);
  group->sp_ = options.layout.sp;
  group->endpoints_ = MakeLocalCommunicators(world);
  for (int rank = 0; rank < world; ++rank) {
    group->threads_.emplace_back([&group = *group, &checkpoint, &model, &options, rank] {
      group.RunRank(checkpoint, model, options, *group.endpoints_[rank]);
    });
  }
  std::unique_lock lock(group->mutex_);
  group->changed_.wait(lock, [&] { return group->started_ == world; });
  lock.unlock();
  if (!group->start_errors_.empty()) return Together(group->start_errors_);
  return group;
}

// One line; ranks that say the same say it together. A rank's own reason says more than "another
// rank".
Error LocalGroup::Together(const RankErrors& errors) {
  std::map<std::string, std::set<int>> ranks_of;
  const Error* first = nullptr;
  for (const auto& [rank, error] : errors) {
    if (error.message == kAnotherRank) continue;
    ranks_of[error.message].insert(rank);
    if (first == nullptr) first = &error;
  }
  if (first == nullptr) return errors.front().second;
  std::vector<std::string> told;
  for (const auto& [message, ranks] : ranks_of) {
    std::vector<std::string> names;
    for (const int rank : ranks) names.push_back(StrCat(rank));
    told.push_back(StrCat(ranks.size() > 1 ? "ranks " : "rank ", Join(names, ", "), ": ", message));
  }
  Error all = *first;
  all.message = Join(told, "; ");
  return all;
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
  const auto make_backend = [&]() -> Status {
    const std::lock_guard lock(loading_);
    BackendOptions chosen = options.backend;
    chosen.rank_on_host = world.rank();
    ASSIGN_OR_RETURN(backend, options.make_backend ? options.make_backend(world.rank(), chosen)
                                                   : MakeBackend(chosen));
    return {};
  };
  RETURN_IF_ERROR(Agree(make_backend(), world));
  const MemoryShare share = ShareMemory(world, *backend, world.size());
  executor.ranks_on_memory = share.ranks;
  const auto load = [&]() -> Result<Weights> {
    const std::lock_guard lock(loading_);
    const RankPart part = PartOf(model, options.layout, world.rank());
    const uint64_t memory =
        options.weight_memory_bytes > 0 ? options.weight_memory_bytes : share.free_bytes;
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
    ++started_;
    if (!executor.ok()) start_errors_.emplace_back(world.rank(), executor.error());
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
    Record(world.rank(), executor.End());
  }
}

void LocalGroup::Record(int rank, Result<std::optional<StepResult>> result) {
  {
    const std::lock_guard lock(mutex_);
    const uint64_t plan = ended_[rank]++;
    if (plan < taken_) return;  // the caller was told that it failed elsewhere
    Outcome& outcome = outcomes_[plan - taken_];
    ++outcome.ranks_ended;
    if (!result.ok()) {
      outcome.errors.emplace_back(rank, result.error());
    } else if (*result) {
      outcome.result = **std::move(result);
    }
  }
  changed_.notify_all();
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
    outcomes_.emplace_back();
  }
  changed_.notify_all();
}

Result<StepResult> LocalGroup::Take() {
  std::unique_lock lock(mutex_);
  const auto ended = [&] { return !outcomes_.empty() && outcomes_.front().ranks_ended == ranks(); };
  changed_.wait(
      lock, [&] { return ended() || (!outcomes_.empty() && !outcomes_.front().errors.empty()); });
  changed_.wait_for(lock, kErrorsWaitMax, ended);
  const Outcome outcome = std::move(outcomes_.front());
  outcomes_.pop_front();
  ++taken_;
  if (!outcome.errors.empty()) return Together(outcome.errors);
  return *outcome.result;
}

}  // namespace echelon
