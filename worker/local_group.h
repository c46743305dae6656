#pragma once
// LocalGroup: a whole world of ranks as threads of this process, over local communicators, each
// with a backend of its own. The code of the cluster without its processes: StepPlan in, StepResult
// out. One thread drives it (Post and Take may be two). The threads end with the object; where the
// device of one has failed the others may wait for it for ever, as threads do not die alone: then
// the program has to end.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/model/checkpoint.h"
#include "common/result.h"
#include "common/step.h"
#include "kernels/backend.h"
#include "worker/executor.h"

namespace echelon {

struct LocalGroupOptions {
  ParallelLayout layout;
  BackendOptions backend;            // threads: of each rank
  ExecutorOptions executor;          // layout and rank are filled in
  uint64_t weight_memory_bytes = 0;  // per rank; 0 = what the backend says is free, shared out
  // Makes a rank's backend; empty: MakeBackend(backend). Called by the ranks' threads, one at a
  // time.
  std::function<Result<std::unique_ptr<Backend>>(int rank, const BackendOptions&)> make_backend;
};

class LocalGroup {
 public:
  // `model`: the checkpoint's configuration, perhaps with another schedule. The checkpoint is read
  // by one rank at a time and not needed any more afterwards. An error names the ranks that failed.
  static Result<std::unique_ptr<LocalGroup>> Start(const Checkpoint& checkpoint,
                                                   const ModelConfig& model,
                                                   const LocalGroupOptions& options);
  ~LocalGroup();

  // Hands a plan to every rank; plans run in this order, several may be in flight.
  void Post(const StepPlan& plan);
  // The result of the oldest plan whose result was not taken yet; blocks until all ranks have ended
  // it. An error tells those of all ranks that have failed by kErrorsWaitMax after the first of
  // them did: ranks that wait for a failed one have none.
  Result<StepResult> Take();
  Result<StepResult> Run(const StepPlan& plan) {
    Post(plan);
    return Take();
  }

  int pages() const { return pages_; }  // of all sp ranks
  int context_max() const { return context_max_; }
  int ranks() const { return static_cast<int>(threads_.size()); }
  int sp() const { return sp_; }

 private:
  using RankErrors = std::vector<std::pair<int, Error>>;
  struct Outcome {
    int ranks_ended = 0;
    std::optional<StepResult> result;
    RankErrors errors;
  };
  LocalGroup() = default;
  static Error Together(const RankErrors& errors);
  // A rank's thread, from loading to the end.
  void RunRank(const Checkpoint& checkpoint, const ModelConfig& model,
               const LocalGroupOptions& options, Communicator& world);
  // `backend` is made here and outlives the executor.
  Result<std::unique_ptr<Executor>> StartRank(const Checkpoint& checkpoint,
                                              const ModelConfig& model,
                                              const LocalGroupOptions& options, Communicator& world,
                                              std::unique_ptr<Backend>& backend);
  void RunPlans(Executor& executor, Communicator& world);
  void Record(int rank, Result<std::optional<StepResult>> result);
  // The rank's next plan; waits for one where `wait`. None: there is none, or the group ends.
  std::optional<StepPlan> NextPlan(Communicator& world, bool wait);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<StepPlan>> plans_;  // per rank
  std::deque<Outcome> outcomes_;             // of the plans that were posted and not taken
  uint64_t taken_ = 0;                       // plans before them
  std::vector<uint64_t> ended_;              // plans, per rank
  int started_ = 0;                          // ranks that have tried
  RankErrors start_errors_;
  bool stopping_ = false;
  int pages_ = 0;
  int context_max_ = 0;
  int sp_ = 1;
  std::mutex loading_;
  SystemClock clock_;
  std::vector<std::unique_ptr<Communicator>> endpoints_;
  std::vector<std::thread> threads_;
};

}  // namespace echelon
