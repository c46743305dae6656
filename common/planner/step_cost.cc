#include "common/planner/step_cost.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/planner/stage_cost.h"

namespace echelon {

namespace {

// Shares of tensor-parallel ranks are of about so many parts, and given only where a step gets this
// much faster: rates are measured no better.
constexpr double kShareParts = 100;
constexpr double kShareGain = 0.02;

// The same on another layout, which outlives the value.
CostInputs Moved(const CostInputs& in, const ParallelLayout& layout) {
  return {in.model,
          layout,
          in.cluster,
          in.layer_bytes_per_weight,
          in.head_bytes_per_weight,
          in.kv_value_bytes,
          in.activation_bytes,
          in.token_split};
}

std::vector<PlacedStage> PlaceStages(const CostInputs& in, const Placement& placement) {
  std::vector<PlacedStage> stages;
  for (int s = 0; s < in.layout.pp; ++s) stages.push_back(PlaceStage(in, placement, s));
  return stages;
}

std::vector<StageCost> CostOfStages(const std::vector<PlacedStage>& stages,
                                    const StepShape& shape) {
  std::vector<StageCost> costs;
  for (const PlacedStage& stage : stages) costs.push_back(CostOfStage(stage, shape));
  return costs;
}

double SlowestOf(const std::vector<StageCost>& stages) {
  double most = 0.0;
  for (const StageCost& stage : stages) most = std::max(most, stage.total());
  return most;
}

// Stages share hosts: a pipeline cannot be faster than the cores of any host allow. `work`: seconds
// that each stage computes.
double HostBound(const CostInputs& in, const Placement& placement,
                 const std::vector<double>& work) {
  const std::vector<HostSpec>& hosts = in.cluster.hosts;
  std::vector<double> core_seconds(hosts.size(), 0.0);
  for (int rank = 0; rank < in.layout.world(); ++rank) {
    core_seconds[placement.host[rank]] +=
        placement.cores[rank] * work[in.layout.PositionOf(rank).pp];
  }
  double most = 0.0;
  for (size_t h = 0; h < hosts.size(); ++h) {
    most = std::max(most, core_seconds[h] / hosts[h].cores);
  }
  return most;
}

void AddParts(PhaseCost& phase, const std::vector<StageCost>& stages, double times) {
  const auto slowest = std::max_element(
      stages.begin(), stages.end(),
      [](const StageCost& a, const StageCost& b) { return a.total() < b.total(); });
  phase.compute_s += slowest->compute_s * times;
  phase.hidden_s += slowest->hidden_s * times;
  phase.exposed_s += (slowest->exposed_s + slowest->send_s) * times;
}

}  // namespace

std::vector<StageCost> CostOfStep(const CostInputs& inputs, const StepShape& shape) {
  return CostOfStages(PlaceStages(inputs, {inputs.layout, inputs.cluster}), shape);
}

std::vector<int> BalanceShards(const CostInputs& inputs, const StepShape& shape) {
  const int tp = inputs.layout.tp;
  if (tp == 1) return {};
  std::vector<double> seconds(tp, 0.0);  // the slowest rank of each index
  for (const PlacedStage& stage : PlaceStages(inputs, {inputs.layout, inputs.cluster})) {
    const std::vector<double> of_stage = SecondsOfEqualWork(stage, shape);
    for (int t = 0; t < tp; ++t) seconds[t] = std::max(seconds[t], of_stage[t]);
  }
  double speeds = 0.0;
  for (const double s : seconds) speeds += 1.0 / s;
  ParallelLayout uneven = inputs.layout;
  for (const double s : seconds) {
    const double share = std::round(kShareParts / (s * speeds));
    uneven.shard_shares.push_back(std::max(1, static_cast<int>(share)));
  }
  const double even_s = SlowestOf(CostOfStep(inputs, shape));
  const bool pays = SlowestOf(CostOfStep(Moved(inputs, uneven), shape)) < (1 - kShareGain) * even_s;
  return pays ? uneven.shard_shares : std::vector<int>();
}

std::vector<int> BalanceStages(const CostInputs& inputs, const StepShape& shape) {
  ParallelLayout layout = inputs.layout;
  if (layout.pp == 1) return {};
  std::vector<int> best;
  for (int s = 0; s < layout.pp; ++s) {
    best.push_back(static_cast<int>(LayersOfStage(inputs.model, layout, s).size()));
  }
  double best_seconds = std::numeric_limits<double>::max();
  for (std::vector<int> counts = best;;) {
    layout.layers_per_stage = counts;
    const std::vector<StageCost> stages = CostOfStep(Moved(inputs, layout), shape);
    int slowest = -1, fastest = 0;
    double most = 0.0;
    for (int s = 0; s < layout.pp; ++s) {
      most = std::max(most, stages[s].total());
      if (counts[s] > 1 && (slowest < 0 || stages[s].total() > stages[slowest].total())) {
        slowest = s;
      }
      if (stages[s].total() < stages[fastest].total()) fastest = s;
    }
    if (most >= best_seconds * (1 - 1e-9)) return best;  // the last move did not help
    best_seconds = most;
    best = counts;
    if (slowest < 0 || slowest == fastest) return best;
    --counts[slowest];
    ++counts[fastest];
  }
}

PhaseCost CostOfPrefill(const CostInputs& inputs, double tokens, double chunk) {
  CHECK(tokens >= 1 && chunk >= 1);
  PhaseCost phase;
  const Placement placement(inputs.layout, inputs.cluster);
  const std::vector<PlacedStage> placed = PlaceStages(inputs, placement);
  std::vector<double> work(inputs.layout.pp, 0.0);
  const double chunks = std::ceil(tokens / chunk);
  for (double c = 0; c < chunks; ++c) {
    const double start = c * chunk;
    const StepShape shape{1.0, std::min(chunk, tokens - start), start, c + 1 == chunks, 0.0};
    const std::vector<StageCost> stages = CostOfStages(placed, shape);
    double sum = 0.0;
    for (size_t s = 0; s < stages.size(); ++s) {
      sum += stages[s].total();
      work[s] += stages[s].compute_s;
    }
    phase.seconds += c == 0 ? sum : SlowestOf(stages);  // the first chunk fills the pipeline
    AddParts(phase, stages, 1.0);
  }
  phase.seconds = std::max(phase.seconds, HostBound(inputs, placement, work));
  return phase;
}

PhaseCost CostOfDecode(const CostInputs& inputs, double context, double streams) {
  const double plans = std::min<double>(inputs.layout.pp, streams);
  const StepShape shape{std::ceil(streams / plans), 1.0, context - 1, true, 0.0};
  const Placement placement(inputs.layout, inputs.cluster);
  const std::vector<StageCost> stages = CostOfStages(PlaceStages(inputs, placement), shape);
  PhaseCost phase;
  std::vector<double> work;
  double sum = 0.0;
  for (const StageCost& stage : stages) {
    sum += stage.total();
    work.push_back(plans * stage.compute_s);
  }
  phase.seconds = std::max({sum, plans * SlowestOf(stages), HostBound(inputs, placement, work)});
  AddParts(phase, stages, plans);
  return phase;
}

}  // namespace echelon
