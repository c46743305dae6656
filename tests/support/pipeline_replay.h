#pragma once
// When each plan leaves each stage of a pipeline if every stage has its own machine, from the order
// in which the scheduler made the plans and the time that each stage is busy with each. A plan
// starts on a stage when the stage has finished the plan before, the stage before has finished this
// plan, and (on the first stage) the results that it was made from are back and the scheduler has
// had its time. Plain arithmetic, no clock.

#include <algorithm>
#include <vector>

namespace echelon::testing {

struct ReplayedPlan {
  int committed = 0;           // results that were back when it was made
  double scheduler_s = 0.0;    // making it and committing its result
  std::vector<double> busy_s;  // by stage
  bool decodes = false;        // nothing but decodes, in the middle of the run
};

struct PipelineSpan {
  double span_s = 0.0, busy_s = 0.0;
  // The share of the stages' time that is idle.
  double bubble(int stages) const { return 1.0 - busy_s / (stages * span_s); }
};

// Of the plans that `counted` names, from the first one's start on.
template <typename Plan, typename Counted>
PipelineSpan LayOut(const std::vector<Plan>& plans, int stages, const Counted& counted) {
  std::vector<double> free_at(stages, 0.0), done(plans.size(), 0.0);
  double coordinator_free = 0.0, first = -1.0, last = 0.0;
  PipelineSpan span;
  for (size_t n = 0; n < plans.size(); ++n) {
    const ReplayedPlan& plan = plans[n];
    const double results = plan.committed > 0 ? done[plan.committed - 1] : 0.0;
    double at = std::max(coordinator_free, results) + plan.scheduler_s;
    coordinator_free = at;
    const bool counts = counted(plan);
    for (int s = 0; s < stages; ++s) {
      at = std::max(at, free_at[s]);
      if (counts && first < 0) first = at;
      at += plan.busy_s[s];
      free_at[s] = at;
      if (counts) span.busy_s += plan.busy_s[s];
    }
    done[n] = at;
    if (counts) last = std::max(last, at);
  }
  span.span_s = last - first;
  return span;
}

}  // namespace echelon::testing
