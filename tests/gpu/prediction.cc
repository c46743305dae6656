#include "tests/gpu/prediction.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "common/planner/step_cost.h"
#include "common/shard_elements.h"

namespace echelon::bench {

namespace {

// Rates so high that what they stand for takes no time.
constexpr double kAtOnce = 1e30;
// Noise must not make a rate negative.
constexpr double kLeast = 1e-15;

ProcessorRates NoTime() {
  ProcessorRates rates;
  rates.layers = rates.head = MatMulCurve({{1.0, 1.0 / kAtOnce}});
  rates.kv_bytes_s = rates.attention_macs_s = kAtOnce;
  rates.block_s = rates.parallel_saves = rates.row_element_s = rates.step_s = 0.0;
  return rates;
}

Link LinkOf(const LinkSpeed& speed) {
  Link link;
  link.latency_s = speed.latency_s;
  link.bytes_s = 1.0 / std::max(speed.seconds_per_byte, 1.0 / kAtOnce);
  link.hidden = 1.0;
  return link;
}

}  // namespace

Shares SharesOf(const std::vector<TraceEvent>& events, size_t begin) {
  const std::set<std::string_view> attention = {
      "attention_norm", "qkv", "rope_append", "attention", "merge_attention", "attention_out"};
  const std::set<std::string_view> mlp = {"mlp_norm", "gate_up", "gated_activation", "down"};
  Shares shares;
  double all = 0.0;
  for (size_t i = begin; i < events.size(); ++i) {
    const TraceEvent& event = events[i];
    if (event.track != TraceTrack::kDeviceCompute) continue;
    const auto ns = static_cast<double>(event.end_ns - event.begin_ns);
    all += ns;
    if (attention.contains(event.name)) shares.attention += ns;
    if (mlp.contains(event.name)) shares.mlp += ns;
  }
  all = std::max(all, 1.0);
  shares.attention /= all;
  shares.mlp /= all;
  shares.rest = 1.0 - shares.attention - shares.mlp;
  return shares;
}

// What is unknown of the attention is found by the model itself: its seconds at a rate of 1.
Prediction::Prediction(const ModelConfig& model, const ParallelLayout& layout, const Phase& phase,
                       double seconds, const Shares& shares)
    : layout_(layout), phase_(phase), rates_(NoTime()) {
  double& rate = phase.prompt ? rates_.attention_macs_s : rates_.kv_bytes_s;
  rate = 1.0;
  const double attention_units = Cost(model, LinkOf({}), false);
  const double steps = phase.prompt ? std::max(1.0, phase.positions / phase.rows) : 1.0;
  const double layers = steps * model.n_layers();
  const ShardElements elements = ElementsOf(model, ShardOf(model, layout, 0));
  const double per_weight = seconds * shares.mlp / layers / elements.mlp;
  const double products = layers * elements.attention * per_weight;
  rate = attention_units / std::max(kLeast, seconds * shares.attention - products);
  // Of prompts, halves of a step take half; the rows of a rank.
  const double rows = phase.rows / layout.sp;
  rates_.layers = phase.prompt ? MatMulCurve({{rows / 2, per_weight / 2}, {rows, per_weight}})
                               : MatMulCurve({{rows, per_weight}});
  rates_.step_s = seconds * shares.rest / steps;
}

// Ranks of tp as on two hosts, where steps may be split; of sp as on one, where the rule of what is
// passed is that of a rank which has not measured its link.
Cluster Prediction::ClusterOf(const Link& link) const {
  HostSpec host;
  host.slots = host.cores = layout_.sp;
  host.cores_per_rank_max = 1;
  host.one = host.all = rates_;
  return UniformCluster(host, layout_.tp, link, link);
}

double Prediction::Cost(const ModelConfig& model, const Link& link, bool split) const {
  const Cluster cluster = ClusterOf(link);
  CostInputs inputs{model, layout_, cluster};
  inputs.token_split = split;
  return phase_.prompt ? CostOfPrefill(inputs, phase_.positions, phase_.rows).seconds
                       : CostOfDecode(inputs, phase_.positions, phase_.rows).seconds;
}

double Prediction::Seconds(const ModelConfig& model, const LinkSpeed& link, bool split) const {
  return Cost(model, LinkOf(link), split);
}

}  // namespace echelon::bench
