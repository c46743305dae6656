#pragma once
// The planner: of all layouts that the model and the hosts allow, which is the fastest that fits,
// which come next and why, and what would not fit. Nothing is loaded: headers, rates, arithmetic.

#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/planner/machine.h"
#include "common/planner/memory.h"
#include "common/planner/step_cost.h"
#include "common/result.h"

namespace echelon {

// New tokens of the request that layouts are compared by: the service's own default length.
inline constexpr double kPlannedTokens = 128;

struct PlannedLayout {
  ParallelLayout layout;  // with the layers of each stage, weighted by the hosts' speed
  std::vector<RankMemory> ranks;
  // The host that has the least left, and how full it is: above 1 the layout does not fit.
  int tightest_host = 0;
  double memory_used = 0.0;  // share of that host's memory
  PhaseCost prefill;         // of one prompt of `context` tokens
  PhaseCost decode;          // of one token for each stream
  // Seconds for all streams, each a prompt of `context` and kPlannedTokens: what is compared.
  double seconds = 0.0;
  bool fits() const { return memory_used <= 1.0; }
};

struct LayoutPlan {
  std::vector<PlannedLayout> fitting;      // best first
  std::vector<PlannedLayout> not_fitting;  // the least too large first
};

// `model`: the checkpoint's configuration, perhaps with another schedule. An error says what to
// change where no layout can run at all.
Result<LayoutPlan> PlanLayouts(const Checkpoint& checkpoint, const ModelConfig& model,
                               const Cluster& cluster, const Workload& workload);
// One layout, which must be valid and no larger than the cluster; its layers_per_stage are kept.
PlannedLayout PlanLayout(const Checkpoint& checkpoint, const ModelConfig& model,
                         const Cluster& cluster, const Workload& workload,
                         const ParallelLayout& layout);

// "tp=2 pp=1 sp=1"
std::string LayoutName(const ParallelLayout& layout);
// "9,9,10,2", as layout.layers_per_stage takes it; "" for one stage.
std::string StagesText(const ParallelLayout& layout);
// In what `other` loses against `best`, in a few words.
std::string WhyNot(const PlannedLayout& best, const PlannedLayout& other, const Cluster& cluster);

// For people, and as one JSON object. `rows`: layouts listed at most.
std::string PlanText(const LayoutPlan& plan, const Cluster& cluster, const Workload& workload,
                     int rows);
std::string PlanJson(const LayoutPlan& plan, const Cluster& cluster, const Workload& workload,
                     int rows);

}  // namespace echelon
