#include "common/planner/stage_cost.h"

#include <algorithm>
#include <deque>

#include "common/step_rules.h"

namespace echelon {

Placement::Placement(const ParallelLayout& layout, const Cluster& cluster)
    : host(cluster.HostsOfRanks(layout.world())) {
  const int stage_ranks = layout.tp * layout.sp;
  std::vector<int> on_host(cluster.hosts.size(), 0);
  for (const int h : host) ++on_host[h];
  for (size_t h = 0; h < on_host.size(); ++h) {
    const int without_core = on_host[h] - cluster.hosts[h].cores;
    turns_s = std::max(turns_s, without_core * 1e-9 * kSharedCoreNapNs);
  }
  for (int begin = 0; begin < layout.world(); begin += stage_ranks) {
    const int last = host[begin + stage_ranks - 1];
    std::vector<int> together(last - host[begin] + 1, 0);  // of the stage's ranks, by host
    for (int i = 0; i < stage_ranks; ++i) ++together[host[begin + i] - host[begin]];
    for (int i = 0; i < stage_ranks; ++i) {
      const int h = host[begin + i];
      const int ranks = together[h - host[begin]], host_cores = cluster.hosts[h].cores;
      // A sub-block is shorter than the system's slice of time: three ranks take two turns on two
      // cores, as four do.
      const double share = ranks <= host_cores ? static_cast<double>(host_cores) / ranks
                                               : 1.0 / ((ranks + host_cores - 1) / host_cores);
      threads.push_back(cluster.hosts[h].CoresOfRank(on_host[h]));
      cores.push_back(std::min(threads.back(), share));
    }
  }
}

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

// Places of `count` ranks, every `stride`th from `begin` on.
GroupPlaces PlacesOf(const Placement& placement, int begin, int count, int stride) {
  GroupPlaces places;
  int last = -1;
  for (int i = 0; i < count; ++i) {
    const int h = placement.host[begin + i * stride];
    if (h != last) places.push_back(0);
    ++places.back();
    last = h;
  }
  return places;
}

size_t HostsOf(const std::set<GroupPlaces>& groups) {
  size_t most = 0;
  for (const GroupPlaces& group : groups) most = std::max(most, group.size());
  return most;
}

class StageWalk {
 public:
  StageWalk(const PlacedStage& stage, const StepShape& shape)
      : stage_(stage),
        in_(stage.in),
        shape_(shape),
        // Few decodes: every sp rank computes all of them, attention is divided.
        copied_(shape.rows == 1 && shape.sequences <= kCopiedRowsMax),
        rows_(copied_ ? shape.total_rows() : shape.total_rows() / in_.layout.sp) {}

  StageCost Run() {
    const StageCost whole = Walk(1);
    // Ranks of one host and of a ring are left whole by worker.token_split: auto.
    if (!in_.token_split || HostsOf(stage_.tp_groups) == 1 || in_.layout.sp > 1 ||
        shape_.total_rows() < 2) {
      return whole;
    }
    const StageCost halves = Walk(2);
    return halves.total() < (1.0 - kSplitGainMin) * whole.total() ? halves : whole;
  }

  double SecondsOf(const RankCost& rank) const {
    double seconds = 0.0;
    for (const SubBlockStep& step : stage_.steps) seconds += BlockSecondsOf(rank, step, rows_, 1);
    return seconds;
  }

 private:
  struct InFlight {
    double seconds;  // of the all-reduce
    double behind;   // compute since it was posted
  };

  // The step with its rows in so many parts, each with an all-reduce of its own.
  StageCost Walk(int parts) {
    cost_ = {};
    const double rows = rows_ / parts;
    const double all_reduce_s = AllReduceSeconds(rows);
    for (const SubBlockStep& step : stage_.steps) {
      for (int part = 0; part < parts; ++part) {
        const int others = parts * (step.in_flight_max + 1) - 1;
        while (static_cast<int>(pending_.size()) > others) WaitForOldest();
        Compute(Slowest([&](const RankCost& r) { return BlockSecondsOf(r, step, rows, parts); }));
        if (step.kind != BlockKind::kMlp && part == 0) PassRound(step.layer);
        if (step.reduce != ReduceKind::kNone) pending_.push_back({all_reduce_s, 0.0});
      }
    }
    const size_t handed_on = pending_.size() / parts;
    while (!pending_.empty()) WaitForOldest();
    Compute(EndsSeconds());
    if (stage_.index + 1 < in_.layout.pp) {
      const double bytes = rows_ * in_.model.d_model * in_.activation_bytes;
      const Link& link = stage_.next_is_far ? in_.cluster.between : in_.cluster.inside;
      cost_.send_s = link.SendSeconds(bytes * static_cast<double>(1 + handed_on));
    }
    return cost_;
  }

  template <typename Seconds>
  double Slowest(const Seconds& seconds) const {
    double most = 0.0;
    for (const RankCost& rank : stage_.kinds) most = std::max(most, seconds(rank));
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
    const bool last = stage_.index + 1 == in_.layout.pp;
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

  // Communication of which some passes behind `behind` seconds of compute.
  void Communicate(double seconds, double behind, const Link& link) {
    const double hidden = link.hidden * std::min(seconds, behind);
    cost_.hidden_s += hidden;
    cost_.exposed_s += seconds - hidden + (seconds > 0 ? stage_.turns_s : 0.0);
  }

  void WaitForOldest() {
    const InFlight message = pending_.front();
    pending_.pop_front();
    const bool far = HostsOf(stage_.tp_groups) > 1;
    Communicate(message.seconds, message.behind, far ? in_.cluster.between : in_.cluster.inside);
  }

  double AllReduceSeconds(double rows) const {
    const double bytes = rows * in_.model.d_model * in_.activation_bytes;
    double most = 0.0;
    for (const GroupPlaces& group : stage_.tp_groups) {
      most = std::max(most, in_.cluster.AllReduceSeconds(group, bytes));
    }
    return most;
  }

  double HandToAll(double bytes) const {
    double most = 0.0;
    for (const GroupPlaces& group : stage_.sp_groups) {
      most = std::max(most, in_.cluster.AllGatherSeconds(group, bytes));
    }
    return most;
  }

  // Sequence parallelism, the attention of a layer (worker/sequence_plan.h): partials of rows that
  // all ranks have go to everyone; of others queries go out behind attention and partials come back
  // behind nothing, or keys and values go round the ring.
  void PassRound(int layer) {
    const int sp = in_.layout.sp;
    if (sp == 1) return;
    const RankCost& rank = stage_.kinds.front();
    const double d = in_.model.head_dim;
    const bool far = HostsOf(stage_.sp_groups) > 1;
    const Link& link = far ? in_.cluster.between : in_.cluster.inside;
    const double partials = rows_ * rank.heads * (d + 2) * 4.0;
    if (copied_) return Communicate(HandToAll(partials), 0.0, link);
    const int window = in_.model.layers[layer].window;
    const double queries = rows_ * rank.heads * d * 4.0;
    const double places = KvPositions(shape_, window) * shape_.sequences / sp;
    const double keys = places * 2 * rank.kv_heads * d * in_.kv_value_bytes;
    // An nth of the rows over an nth of the places: behind each hop, and behind the queries.
    const double behind = AttentionSeconds(rank, window) / sp;
    // The engine's rule: bytes that are waited for. Within a host nothing travels meanwhile.
    const double hidden = far ? behind * link.bytes_s : 0.0;
    const double hops = sp - 1;
    if (std::max(0.0, hops * queries - hidden) + hops * partials <
        hops * std::max(0.0, keys - hidden)) {
      Communicate(HandToAll(queries), behind, link);
      return Communicate(HandToAll(partials), 0.0, link);
    }
    for (int hop = 1; hop < sp; ++hop) Communicate(link.SendSeconds(keys), behind, link);
  }

  const PlacedStage& stage_;
  const CostInputs& in_;
  const StepShape& shape_;
  const bool copied_;
  const double rows_;  // that one rank computes
  std::deque<InFlight> pending_;
  StageCost cost_;
};

}  // namespace

PlacedStage PlaceStage(const CostInputs& in, const Placement& placement, int stage) {
  PlacedStage placed{in, stage, {}, {}, {}, {}, {}, false};
  const int tp = in.layout.tp, sp = in.layout.sp;
  const int begin = in.layout.RankOf({0, stage, 0}), end = begin + tp * sp;
  for (int s = 0; s < sp; ++s) {
    placed.tp_groups.insert(PlacesOf(placement, begin + s * tp, tp, 1));
  }
  for (int t = 0; t < tp; ++t) placed.sp_groups.insert(PlacesOf(placement, begin + t, sp, tp));
  placed.next_is_far = stage + 1 < in.layout.pp && placement.host[end - 1] != placement.host[end];
  std::vector<RankCost> of_shard(tp);
  for (int t = 0; t < tp; ++t) {
    const TensorShard shard = ShardOf(in.model, in.layout, t);
    of_shard[t].elements = ElementsOf(in.model, shard);
    of_shard[t].heads = static_cast<double>(shard.heads.size());
    of_shard[t].kv_heads = static_cast<double>(shard.kv_heads.size());
  }
  for (int i = 0; i < tp * sp; ++i) {
    RankCost rank = of_shard[i % tp];
    rank.cores = placement.cores[begin + i];
    rank.rates = in.cluster.hosts[placement.host[begin + i]].RatesOf(placement.threads[begin + i]);
    const auto at = std::find(placed.kinds.begin(), placed.kinds.end(), rank);
    placed.kind_of.push_back(static_cast<int>(at - placed.kinds.begin()));
    if (at == placed.kinds.end()) placed.kinds.push_back(rank);
  }
  for (RankCost& rank : placed.kinds) {
    ProcessorRates& r = rank.rates;
    const auto roofline = [&](double bytes) {
      return MatMulCurve::Roofline(bytes, r.one_row_bytes_s, r.bytes_s, r.macs_s);
    };
    if (r.layers.empty()) r.layers = roofline(in.layer_bytes_per_weight);
    if (r.head.empty()) r.head = roofline(in.head_bytes_per_weight);
  }
  const Range layers = LayersOfStage(in.model, in.layout, stage);
  placed.steps = StageScheduleOf(in.model, layers.begin, layers.end).steps;
  placed.turns_s = placement.turns_s;
  return placed;
}

StageCost CostOfStage(const PlacedStage& stage, const StepShape& shape) {
  return StageWalk(stage, shape).Run();
}

std::vector<double> SecondsOfEqualWork(const PlacedStage& stage, const StepShape& shape) {
  const StageWalk walk(stage, shape);
  std::vector<double> of_kind;
  for (const RankCost& kind : stage.kinds) {
    RankCost rank = stage.kinds[stage.kind_of.front()];
    rank.rates = kind.rates;
    rank.cores = kind.cores;
    of_kind.push_back(walk.SecondsOf(rank));
  }
  std::vector<double> seconds(stage.in.layout.tp, 0.0);
  for (size_t i = 0; i < stage.kind_of.size(); ++i) {
    double& slowest = seconds[i % seconds.size()];
    slowest = std::max(slowest, of_kind[stage.kind_of[i]]);
  }
  return seconds;
}

}  // namespace echelon
