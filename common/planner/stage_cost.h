#pragma once
// One pipeline stage of a layout on a cluster, and what a step takes on it: step_cost.h asks for
// every stage. A stage is placed once and asked for many steps. Pure functions; seconds.

#include <set>
#include <vector>

#include "common/block_schedule.h"
#include "common/planner/machine.h"
#include "common/planner/step_cost.h"
#include "common/shard_elements.h"

namespace echelon {

// Where the ranks of a layout are, the threads of each, and the cores that it has to itself:
// workers share a host's cores out, and more ranks of one stage than cores take turns.
struct Placement {
  std::vector<int> host;               // by rank: index into Cluster::hosts
  std::vector<double> threads, cores;  // by rank
  // What a message waits for besides: a nap for each rank that its host has no core for.
  double turns_s = 0.0;

  Placement(const ParallelLayout& layout, const Cluster& cluster);
};

// One rank of a stage: its processor as it shares the host, and its part of the model.
struct RankCost {
  ProcessorRates rates;
  double cores = 1.0;  // that the rank has to itself
  ShardElements elements;
  double heads = 0.0, kv_heads = 0.0;
  bool operator==(const RankCost&) const = default;
};

struct PlacedStage {
  CostInputs in;
  int index = 0;
  std::vector<RankCost> kinds;      // ranks that differ
  std::vector<int> kind_of;         // (tp * sp): of each rank, tp fastest
  std::set<GroupPlaces> tp_groups;  // that differ
  std::set<GroupPlaces> sp_groups;  // that differ
  std::vector<SubBlockStep> steps;  // of the stage's layers
  bool next_is_far = false;         // the next stage is on another host
  double turns_s = 0.0;             // Placement's
};
PlacedStage PlaceStage(const CostInputs& inputs, const Placement& placement, int stage);

StageCost CostOfStage(const PlacedStage& stage, const StepShape& shape);

// What rank 0's part of the stage takes on the slowest rank of every tp index, with nothing to wait
// for.
std::vector<double> SecondsOfEqualWork(const PlacedStage& stage, const StepShape& shape);

}  // namespace echelon
