#pragma once
// The cost model: how long a step takes on a layout, from the rates of machines and links. It
// interprets the same BlockSchedule as the decoder, with times in the place of numbers: compute
// goes on while an all-reduce is in flight, and what is left of it at the wait is exposed. Pure
// functions.

#include <cstdint>
#include <vector>

#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/planner/machine.h"

namespace echelon {

// What is to be run, and where. All references outlive the value.
struct CostInputs {
  const ModelConfig& model;
  const ParallelLayout& layout;  // valid for the model, no more ranks than slots
  const Cluster& cluster;
  double layer_bytes_per_weight = 2.0;
  double head_bytes_per_weight = 2.0;
  double kv_value_bytes = 2.0;
  double activation_bytes = 4.0;  // of one value on a link
  // A step may run as two halves of its rows, the all-reduce of one behind the other's compute,
  // where that is faster by kSplitGainMin (worker.token_split: auto).
  bool token_split = false;
};

// A step of `sequences` sequences that are alike: `rows` new positions each, from `start` on.
struct StepShape {
  double sequences = 1.0;
  double rows = 1.0;
  double start = 0.0;  // positions before
  bool sample = true;  // the last row of each yields a token
  // Keys and values read per sequence; 0 = what is visible. (Kernels over a cache of fixed size
  // read all of it.)
  double kv_read = 0.0;
  double total_rows() const { return sequences * rows; }
};

struct StageCost {
  double compute_s = 0.0;
  double hidden_s = 0.0;   // communication behind compute
  double exposed_s = 0.0;  // communication that is waited for
  double send_s = 0.0;     // handing the stream to the next stage
  double total() const { return compute_s + exposed_s + send_s; }
};
// One entry a pipeline stage. Of tensor-parallel ranks the slowest counts, sub-block by sub-block.
std::vector<StageCost> CostOfStep(const CostInputs& inputs, const StepShape& shape);

// Layers of each stage, moved from the slowest stage to the fastest as long as a step of `shape`
// gets faster by it: for uneven hosts, and for the LM head's real cost. Empty for a single stage.
std::vector<int> BalanceStages(const CostInputs& inputs, const StepShape& shape);

// How the tensor-parallel ranks should share each layer, by what the same work takes on each; empty
// where that does not make the step faster: equal ranks, or a single one.
std::vector<int> BalanceShards(const CostInputs& inputs, const StepShape& shape);

// A whole prompt, or one token for every stream.
struct PhaseCost {
  double seconds = 0.0;
  double compute_s = 0.0, hidden_s = 0.0, exposed_s = 0.0;  // of the stage that takes longest
};
// One prompt of `tokens` in chunks of at most `chunk` rows, which follow each other through the
// pipeline.
PhaseCost CostOfPrefill(const CostInputs& inputs, double tokens, double chunk);
// The period of one token for each of `streams`, in as many plans as fill the pipeline.
PhaseCost CostOfDecode(const CostInputs& inputs, double context, double streams);

}  // namespace echelon
