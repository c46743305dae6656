#pragma once
// What the planner's cost model (common/planner/step_cost.h) says of runs over an emulated link,
// fed with what the same rank took without communication: the sub-blocks' seconds as the device has
// them, the link as it was programmed. So it is the model's account of schedules, splits and rings
// that is held against the clock, not its account of a device.

#include <vector>

#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/planner/machine.h"
#include "tests/gpu/emulated_link.h"
#include "worker/trace.h"

namespace echelon::bench {

// How the device's time of some steps is shared out; together 1.
struct Shares {
  double attention = 0.0, mlp = 0.0, rest = 0.0;  // sub-blocks with their norms; embedding and head
};
// Of the device's ops from the trace's event `begin` on.
Shares SharesOf(const std::vector<TraceEvent>& events, size_t begin);

// A prompt of `positions` in chunks of `rows`, or a decode step of `rows` streams that see so many.
struct Phase {
  bool prompt = false;
  double positions = 0.0, rows = 0.0;
};

class Prediction {
 public:
  // `seconds`: the phase without communication, on `layout`, of two ranks.
  Prediction(const ModelConfig& model, const ParallelLayout& layout, const Phase& phase,
             double seconds, const Shares& shares);
  // `model`: the same with another schedule, perhaps. `split`: steps in two parts where they gain.
  double Seconds(const ModelConfig& model, const LinkSpeed& link, bool split) const;

 private:
  Cluster ClusterOf(const Link& link) const;
  double Cost(const ModelConfig& model, const Link& link, bool split) const;

  const ParallelLayout layout_;
  const Phase phase_;
  ProcessorRates rates_;
};

}  // namespace echelon::bench
