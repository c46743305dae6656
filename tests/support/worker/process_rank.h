#pragma once
// ProcessRank: one rank of a layout in a process of its own, as LocalGroup is all of them in one:
// loads its part, runs the plans that every rank is given alike, and hands each step's result to
// all of them. An error ends the process, and so the group (process_group.h). The rank's thread.

#include <deque>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/model/checkpoint.h"
#include "kernels/backend.h"
#include "tests/support/worker/generate.h"
#include "tests/support/worker/process_group.h"
#include "worker/executor.h"
#include "worker/local_group.h"

namespace echelon::testing {

class ProcessRank final : public PlanRunner {
 public:
  // Collective. The options as LocalGroup takes them; the backend is made already.
  ProcessRank(ProcessGroup& group, Backend& backend, const Checkpoint& checkpoint,
              const LocalGroupOptions& options);

  void Post(const StepPlan& plan) override { plans_.push_back(plan); }
  Result<StepResult> Take() override;
  int pages() const override { return executor_->pages(); }
  int sp() const override { return sp_; }
  std::string DescribePages() const { return executor_->DescribePages(); }

 private:
  template <typename T>
  T OrFail(Result<T> result) {
    if (!result.ok()) group_.Fail(result.error().message);
    return std::move(result).value();
  }

  ProcessGroup& group_;
  const SystemClock clock_;
  const int sp_;
  const int result_rank_;
  std::unique_ptr<Executor> executor_;
  std::deque<StepPlan> plans_;
};

}  // namespace echelon::testing
