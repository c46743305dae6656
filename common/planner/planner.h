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
  ParallelLayout layout;  // layers of stages and shares of shards weighted by the hosts' speed
  std::vector<RankMemory> ranks;
  std::vector<int> host_of;  // of each rank: index into Cluster::hosts
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
  // Where none fits: the longest context of as many streams, and the most streams of as long a
  // context, that would. 0: none.
  int64_t context_that_fits = 0, streams_that_fit = 0;
};

// `model`: the checkpoint's configuration, perhaps with another schedule. An error says what to
// change where no layout can run at all, whatever the memory.
Result<LayoutPlan> PlanLayouts(const Checkpoint& checkpoint, const ModelConfig& model,
                               const Cluster& cluster, const Workload& workload);
// One layout, which must be valid and no larger than the cluster; the layers of its stages and the
// shares of its shards are kept where it says them.
PlannedLayout PlanLayout(const Checkpoint& checkpoint, const ModelConfig& model,
                         const Cluster& cluster, const Workload& workload,
                         const ParallelLayout& layout);

// "tp=2 pp=1 sp=1"
std::string LayoutName(const ParallelLayout& layout);
// "9,9,10,2", as layout.layers_per_stage and layout.shard_shares take them; "" where not given.
std::string CountsText(const std::vector<int>& counts);
// The layout as a configuration has it: "{tp: 2, shard_shares: \"67,33\"}".
std::string LayoutSetting(const ParallelLayout& layout);
// What is lacking for it: "needs 12.0 GB on node1, which has 8.0 GB".
std::string WhatIsLacking(const PlannedLayout& planned, const Cluster& cluster);
// In what `other` loses against `best`, in a few words.
std::string WhyNot(const PlannedLayout& best, const PlannedLayout& other);

// For people, and as one JSON object. `rows`: layouts listed at most.
std::string PlanText(const LayoutPlan& plan, const Cluster& cluster, const Workload& workload,
                     int rows);
std::string PlanJson(const LayoutPlan& plan, const Cluster& cluster, const Workload& workload,
                     int rows);

}  // namespace echelon
