#include "common/planner/step_cost.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <set>

#include "common/block_schedule.h"
#include "common/check.h"

namespace echelon {

namespace {

// Pairs of (row, visible position), summed over one sequence's rows.
double VisiblePairs(const StepShape& shape, int window) {
  const double first = shape.start + 1, last = shape.start + shape.rows;
  if (window == 0 || last <= window) return (first + last) / 2 * shape.rows;
  if (first >= window) return window * shape.rows;
  const double growing = window - first + 1;
  return (first + window) / 2 * growing + window * (shape.rows - growing);
}

double KvPositions(const StepShape& shape, int window) {
  if (shape.kv_read > 0) return shape.kv_read;
  const double seen = shape.start + shape.rows;
  return window == 0 ? seen : std::min<double>(seen, window + shape.rows - 1);
}

// Cores that each rank has to itself, and its threads: workers share a host's cores out, and more
// ranks of one stage than cores take turns.
struct Placement {
  std::vector<double> threads, cores;  // by rank

  Placement(const ParallelLayout& layout, const Cluster& cluster) {
    const int stage_ranks = layout.tp * layout.sp;
    std::vector<int> host(layout.world());
    std::vector<int> on_host(cluster.hosts.size(), 0);
    for (int rank = 0; rank < layout.world(); ++rank) ++on_host[host[rank] = cluster.HostOf(rank)];
    for (int begin = 0; begin < layout.world(); begin += stage_ranks) {
      std::vector<int> together(cluster.hosts.size(), 0);
      for (int i = 0; i < stage_ranks; ++i) ++together[host[begin + i]];
      for (int i = 0; i < stage_ranks; ++i) {
        const int h = host[begin + i];
        threads.push_back(cluster.hosts[h].CoresOfRank(on_host[h]));
        cores.push_back(
            std::min(threads.back(), static_cast<double>(cluster.hosts[h].cores) / together[h]));
      }
    }
  }
};

// Decodes of a step that all sequence-parallel ranks compute, as the engine has it.
constexpr double kSharedDecodesMax = 8;
// Shares of tensor-parallel ranks are of about so many parts, and given only where a step gets this
// much faster: rates are measured no better.
constexpr double kShareParts = 100;
constexpr double kShareGain = 0.02;

// One rank of a stage: its processor as it shares the host, and its part of the model.
struct RankCost {
  ProcessorRates rates;
  double cores = 1.0;  // that the rank has to itself
  ShardElements elements;
  double heads = 0.0, kv_heads = 0.0;
};

class StageWalk {
 public:
  StageWalk(const CostInputs& in, const StepShape& shape, const Placement& placement, int stage)
      : in_(in), shape_(shape), stage_(stage), rows_(shape.total_rows() / in.layout.sp) {
    // Few decodes: every rank computes all of them, attention is divided.
    if (shape.rows == 1 && shape.sequences <= kSharedDecodesMax) rows_ = shape.total_rows();
    PlaceRanks(placement);
    const Range layers = LayersOfStage(in.model, in.layout, stage);
    for (const SubBlockStep& step : MakeSchedule(in.model).steps) {
      if (layers.begin <= step.layer && step.layer < layers.end) steps_.push_back(step);
    }
  }

  StageCost Run() {
    const StageCost whole = Walk(1);
    // Ranks of one host and of a ring are left whole by worker.token_split: auto.
    if (!in_.token_split || tp_hosts_ == 1 || in_.layout.sp > 1 || shape_.total_rows() < 2 ||
        in_.model.schedule != ScheduleKind::kStandard) {
      return whole;
    }
    const StageCost halves = Walk(2);
    return halves.total() < (1.0 - kSplitGainMin) * whole.total() ? halves : whole;
  }

  // What rank 0's part of the stage takes on each of the stage's ranks, with nothing to wait for.
  std::vector<double> SecondsOfEqualWork() const {
    std::vector<double> seconds(ranks_.size(), 0.0);
    for (size_t i = 0; i < ranks_.size(); ++i) {
      RankCost rank = ranks_.front();
      rank.rates = ranks_[i].rates;
      rank.cores = ranks_[i].cores;
      for (const SubBlockStep& step : steps_) seconds[i] += BlockSecondsOf(rank, step, rows_, 1);
    }
    return seconds;
  }

 private:
  // The step with its rows in so many parts, each with an all-reduce of its own.
  StageCost Walk(int parts) {
    cost_ = {};
    const double rows = rows_ / parts;
    for (const SubBlockStep& step : steps_) {
      for (int part = 0; part < parts; ++part) {
        const int others = parts * (step.in_flight_max + 1) - 1;
        while (static_cast<int>(pending_.size()) > others) WaitForOldest();
        Compute(Slowest([&](const RankCost& r) { return BlockSecondsOf(r, step, rows, parts); }));
        if (step.kind != BlockKind::kMlp && part == 0) RingExchange(step.layer);
        if (step.reduce != ReduceKind::kNone) pending_.push_back({AllReduceSeconds(rows), 0.0});
      }
    }
    const size_t handed_on = pending_.size() / parts;
    while (!pending_.empty()) WaitForOldest();
    Compute(EndsSeconds());
    if (stage_ + 1 < in_.layout.pp) {
      const double bytes = rows_ * in_.model.d_model * in_.activation_bytes;
      cost_.send_s = BoundaryLink().SendSeconds(bytes * static_cast<double>(1 + handed_on));
    }
    return cost_;
  }

  struct InFlight {
    double seconds;  // of the all-reduce
    double behind;   // compute since it was posted
  };

  void PlaceRanks(const Placement& placement) {
    const Cluster& cluster = in_.cluster;
    const int begin = in_.layout.RankOf({0, stage_, 0});
    const int count = in_.layout.tp * in_.layout.sp;
    std::set<int> stage_hosts, group_hosts;
    for (int i = 0; i < count; ++i) {
      const int h = cluster.HostOf(begin + i);
      if (i % in_.layout.tp == 0) group_hosts.clear();  // the next tensor-parallel group
      group_hosts.insert(h);
      stage_hosts.insert(h);
      tp_hosts_ = std::max(tp_hosts_, static_cast<int>(group_hosts.size()));
      RankCost rank;
      rank.cores = placement.cores[begin + i];
      rank.rates = cluster.hosts[h].RatesOf(placement.threads[begin + i]);
      const TensorShard shard = ShardOf(in_.model, in_.layout, i % in_.layout.tp);
      rank.elements = ElementsOf(in_.model, shard);
      rank.heads = static_cast<double>(shard.heads.size());
      rank.kv_heads = static_cast<double>(shard.kv_heads.size());
      FillCurves(rank.rates);
      ranks_.push_back(rank);
    }
    hosts_ = static_cast<int>(stage_hosts.size());
  }

  void FillCurves(ProcessorRates& r) const {
    const auto roofline = [&](double bytes) {
      return MatMulCurve::Roofline(bytes, r.one_row_bytes_s, r.bytes_s, r.macs_s);
    };
    if (r.layers.empty()) r.layers = roofline(in_.layer_bytes_per_weight);
    if (r.head.empty()) r.head = roofline(in_.head_bytes_per_weight);
  }

  template <typename Seconds>
  double Slowest(const Seconds& seconds) const {
    double most = 0.0;
    for (const RankCost& rank : ranks_) most = std::max(most, seconds(rank));
    return most;
  }

  double AttentionSeconds(const RankCost& r, int window) const {
    const double d = in_.model.head_dim;
    const double read = shape_.sequences * KvPositions(shape_, window) * 2 * r.kv_heads * d *
                        in_.kv_value_bytes / in_.layout.sp;
    const double macs =
        shape_.sequences * VisiblePairs(shape_, window) * 2 * r.heads * d / in_.layout.sp;
    return std::max(read / r.rates.kv_bytes_s, macs / r.rates.attention_macs_s) / r.cores;
  }

  // Of one of `parts` parts of the step, of `rows` rows.
  double BlockSecondsOf(const RankCost& r, const SubBlockStep& step, double rows, int parts) const {
    const bool attention = step.kind != BlockKind::kMlp;
    const bool mlp = step.kind != BlockKind::kAttention;
    const double blocks = attention && mlp ? 2.0 : 1.0;
    double weights = 0.0;
    if (attention) weights += r.elements.attention;
    if (mlp) weights += r.elements.mlp;
    double t = weights * r.rates.layers.SecondsPerWeight(rows) / r.cores;
    t += rows * in_.model.d_model * r.rates.row_element_s * blocks / r.cores;
    t += r.rates.block_s * (blocks - (blocks > 1 ? r.rates.parallel_saves : 0.0));
    if (attention) t += AttentionSeconds(r, in_.model.layers[step.layer].window) / parts;
    return t;
  }

  // Embedding, LM head, and what a step costs whatever it holds.
  double EndsSeconds() const {
    const bool last = stage_ + 1 == in_.layout.pp;
    const double sampled = last && shape_.sample ? shape_.sequences : 0.0;
    return Slowest([&](const RankCost& r) {
      double t = r.rates.step_s;
      if (sampled > 0) {
        t += r.elements.head * r.rates.head.SecondsPerWeight(sampled) / r.cores;
      }
      return t;
    });
  }

  void Compute(double seconds) {
    cost_.compute_s += seconds;
    for (InFlight& message : pending_) message.behind += seconds;
  }

  void WaitForOldest() {
    const InFlight message = pending_.front();
    pending_.pop_front();
    const Link& link = tp_hosts_ > 1 ? in_.cluster.between : in_.cluster.inside;
    const double hidden = link.hidden * std::min(message.seconds, message.behind);
    cost_.hidden_s += hidden;
    cost_.exposed_s += message.seconds - hidden;
  }

  const Link& BoundaryLink() const {
    const int last = in_.layout.RankOf({in_.layout.tp - 1, stage_, in_.layout.sp - 1});
    const bool same_host = in_.cluster.HostOf(last) == in_.cluster.HostOf(last + 1);
    return same_host ? in_.cluster.inside : in_.cluster.between;
  }

  // Ranks on one host reduce among themselves first, then the hosts exchange.
  double AllReduceSeconds(double rows) const {
    const int tp = in_.layout.tp;
    if (tp == 1) return 0.0;
    const double bytes = rows * in_.model.d_model * in_.activation_bytes;
    const int local = (tp + tp_hosts_ - 1) / tp_hosts_;
    return in_.cluster.inside.AllReduceSeconds(local, bytes) +
           in_.cluster.between.AllReduceSeconds(tp_hosts_, bytes);
  }

  // Sequence parallelism: prefill passes keys and values (or queries, where that is less) round the
  // ring behind attention; decode exchanges (out, log-sum-exp) once.
  void RingExchange(int layer) {
    const int sp = in_.layout.sp;
    if (sp == 1) return;
    const double d = in_.model.head_dim;
    const double heads = ranks_.front().heads, kv_heads = ranks_.front().kv_heads;
    const Link& link = hosts_ > 1 ? in_.cluster.between : in_.cluster.inside;
    if (shape_.rows == 1) {
      // Partials of all rows to everyone.
      const double bytes = shape_.sequences * heads * (d + 2) * 4.0;
      cost_.exposed_s += link.AllReduceSeconds(sp, bytes);
      return;
    }
    const double own = KvPositions(shape_, in_.model.layers[layer].window) * shape_.sequences / sp;
    const double pass_kv = own * 2 * kv_heads * d * in_.kv_value_bytes;
    const double pass_q = rows_ * heads * (2 * d + 2) * 4.0;
    const double message = link.SendSeconds(std::min(pass_kv, pass_q));
    const double behind = AttentionSeconds(ranks_.front(), in_.model.layers[layer].window) / sp;
    const double hidden = link.hidden * std::min(message, behind) * (sp - 1);
    cost_.hidden_s += hidden;
    cost_.exposed_s += message * (sp - 1) - hidden;
  }

  const CostInputs& in_;
  const StepShape& shape_;
  const int stage_;
  double rows_;  // that one rank computes
  std::vector<RankCost> ranks_;
  int hosts_ = 1;                    // that the stage's ranks are on
  int tp_hosts_ = 1;                 // that a tensor-parallel group is on, at most
  std::vector<SubBlockStep> steps_;  // of the stage's layers
  std::deque<InFlight> pending_;
  StageCost cost_;
};

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

// Stages share hosts: a pipeline cannot be faster than the cores of any host allow. `work`: seconds
// that each stage computes.
double HostBound(const CostInputs& in, const std::vector<double>& work) {
  const Cluster& cluster = in.cluster;
  const Placement placement(in.layout, cluster);
  std::vector<double> core_seconds(cluster.hosts.size(), 0.0);
  for (int rank = 0; rank < in.layout.world(); ++rank) {
    core_seconds[cluster.HostOf(rank)] +=
        placement.cores[rank] * work[in.layout.PositionOf(rank).pp];
  }
  double most = 0.0;
  for (size_t h = 0; h < core_seconds.size(); ++h) {
    most = std::max(most, core_seconds[h] / cluster.hosts[h].cores);
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

ShardElements ElementsOf(const ModelConfig& model, const TensorShard& shard) {
  const double d = model.d_model, head_dim = model.head_dim;
  const auto heads = static_cast<double>(shard.heads.size());
  const auto kv_heads = static_cast<double>(shard.kv_heads.size());
  return {d * head_dim * (2 * heads + 2 * kv_heads), 3 * d * static_cast<double>(shard.ff.size()),
          d * static_cast<double>(shard.vocab.size())};
}

std::vector<StageCost> CostOfStep(const CostInputs& inputs, const StepShape& shape) {
  const Placement placement(inputs.layout, inputs.cluster);
  std::vector<StageCost> stages;
  for (int s = 0; s < inputs.layout.pp; ++s) {
    stages.push_back(StageWalk(inputs, shape, placement, s).Run());
  }
  return stages;
}

std::vector<int> BalanceShards(const CostInputs& inputs, const StepShape& shape) {
  const int tp = inputs.layout.tp;
  if (tp == 1) return {};
  const Placement placement(inputs.layout, inputs.cluster);
  std::vector<double> seconds(tp, 0.0);  // the slowest rank of each index
  for (int s = 0; s < inputs.layout.pp; ++s) {
    const auto stage = StageWalk(inputs, shape, placement, s).SecondsOfEqualWork();
    for (size_t i = 0; i < stage.size(); ++i) {
      seconds[i % tp] = std::max(seconds[i % tp], stage[i]);
    }
  }
  double speeds = 0.0;
  for (const double s : seconds) speeds += 1.0 / s;
  ParallelLayout uneven = inputs.layout;
  for (const double s : seconds) {
    const double share = std::round(kShareParts / (s * speeds));
    uneven.shard_shares.push_back(std::max(1, static_cast<int>(share)));
  }
  const auto slowest_stage = [&](const ParallelLayout& layout) {
    double most = 0.0;
    for (const StageCost& stage : CostOfStep(Moved(inputs, layout), shape)) {
      most = std::max(most, stage.total());
    }
    return most;
  };
  const bool pays = slowest_stage(uneven) < (1 - kShareGain) * slowest_stage(inputs.layout);
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
  std::vector<double> work(inputs.layout.pp, 0.0);
  const double chunks = std::ceil(tokens / chunk);
  for (double c = 0; c < chunks; ++c) {
    const double start = c * chunk;
    const StepShape shape{1.0, std::min(chunk, tokens - start), start, c + 1 == chunks, 0.0};
    const std::vector<StageCost> stages = CostOfStep(inputs, shape);
    double sum = 0.0, most = 0.0;
    for (size_t s = 0; s < stages.size(); ++s) {
      sum += stages[s].total();
      most = std::max(most, stages[s].total());
      work[s] += stages[s].compute_s;
    }
    phase.seconds += c == 0 ? sum : most;  // the first chunk fills the pipeline
    AddParts(phase, stages, 1.0);
  }
  phase.seconds = std::max(phase.seconds, HostBound(inputs, work));
  return phase;
}

PhaseCost CostOfDecode(const CostInputs& inputs, double context, double streams) {
  const double plans = std::min<double>(inputs.layout.pp, streams);
  const StepShape shape{std::ceil(streams / plans), 1.0, context - 1, true, 0.0};
  const std::vector<StageCost> stages = CostOfStep(inputs, shape);
  PhaseCost phase;
  std::vector<double> work;
  double sum = 0.0, most = 0.0;
  for (const StageCost& stage : stages) {
    sum += stage.total();
    most = std::max(most, stage.total());
    work.push_back(plans * stage.compute_s);
  }
  phase.seconds = std::max({sum, plans * most, HostBound(inputs, work)});
  AddParts(phase, stages, plans);
  return phase;
}

}  // namespace echelon
