#include "common/planner/planner.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {

// All divisions of up to `slots` ranks that the model allows. Above 64 slots only powers of two and
// what uses every slot: the rest is far slower to list than it is interesting.
std::vector<ParallelLayout> Candidates(const ModelConfig& model, int slots) {
  constexpr int kAllUpTo = 64;
  const auto taken = [&](int n) {
    return slots <= kAllUpTo || (n & (n - 1)) == 0 || slots % n == 0;
  };
  std::vector<ParallelLayout> out;
  for (int tp = 1; tp <= std::min(slots, model.n_heads); ++tp) {
    if (!taken(tp)) continue;
    for (int pp = 1; pp <= std::min(slots / tp, model.n_layers()); ++pp) {
      if (!taken(pp)) continue;
      for (int sp = 1; sp <= std::min(slots / (tp * pp), ParallelLayout::kAxisMax); ++sp) {
        if (!taken(sp)) continue;
        const ParallelLayout layout{.tp = tp, .pp = pp, .sp = sp};
        if (layout.Validate(model).ok()) out.push_back(layout);
      }
    }
  }
  return out;
}

bool Before(const PlannedLayout& a, const PlannedLayout& b) {
  if (a.seconds != b.seconds) return a.seconds < b.seconds;
  return a.layout.world() < b.layout.world();
}

// Bytes of each rank, and the host that has the least left.
void AddMemory(const Checkpoint& checkpoint, const ModelConfig& model, const Cluster& cluster,
               const Workload& workload, PlannedLayout& planned) {
  const ParallelLayout& layout = planned.layout;
  std::vector<double> used(cluster.hosts.size(), 0.0);
  planned.host_of = cluster.HostsOfRanks(layout.world());
  for (int rank = 0; rank < layout.world(); ++rank) {
    // Ranks of a stage that differ in sp alone hold the same parts.
    const bool known = layout.PositionOf(rank).sp > 0;
    planned.ranks.push_back(known ? planned.ranks[rank - layout.tp]
                                  : MemoryOfRank(checkpoint, model, layout, rank, workload));
    used[planned.host_of[rank]] += static_cast<double>(planned.ranks.back().total());
  }
  for (size_t h = 0; h < used.size(); ++h) {
    const double share = used[h] / static_cast<double>(cluster.hosts[h].memory_bytes);
    if (share <= planned.memory_used) continue;
    planned.memory_used = share;
    planned.tightest_host = static_cast<int>(h);
  }
}

}  // namespace

PlannedLayout PlanLayout(const Checkpoint& checkpoint, const ModelConfig& model,
                         const Cluster& cluster, const Workload& workload,
                         const ParallelLayout& layout) {
  CHECK(layout.world() <= cluster.slots());
  const WeightBytesPer bytes = BytesPerWeight(checkpoint);
  const auto context = static_cast<double>(workload.context);
  const auto streams = static_cast<double>(workload.streams);
  PlannedLayout planned;
  planned.layout = layout;
  CostInputs inputs{model,        planned.layout, cluster,
                    bytes.layers, bytes.head,     workload.kv_value_bytes};
  inputs.token_split = true;
  const double rows = std::ceil(streams / std::min<double>(layout.pp, streams));
  const StepShape decode{rows, 1, context - 1, true, 0};
  if (layout.shard_shares.empty()) planned.layout.shard_shares = BalanceShards(inputs, decode);
  if (layout.layers_per_stage.empty()) {
    planned.layout.layers_per_stage = BalanceStages(inputs, decode);
  }
  AddMemory(checkpoint, model, cluster, workload, planned);
  planned.prefill = CostOfPrefill(inputs, context, static_cast<double>(workload.step_tokens_max));
  planned.decode = CostOfDecode(inputs, context, streams);
  planned.seconds = streams * planned.prefill.seconds + kPlannedTokens * planned.decode.seconds;
  return planned;
}

namespace {

constexpr size_t kNearestTried = 16;

// The greatest value of 1 to `most` for which `fits` holds, if it holds below and fails above.
template <typename Fits>
int64_t Greatest(int64_t most, const Fits& fits) {
  int64_t least = 0;
  while (least < most) {
    const int64_t middle = least + (most - least + 1) / 2;
    if (fits(middle)) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return least;
}

// What would fit where nothing does: the layouts that lack least are asked.
void AddSmaller(const Checkpoint& checkpoint, const ModelConfig& model, const Cluster& cluster,
                const Workload& workload, LayoutPlan& plan) {
  const auto any_fits = [&](const Workload& smaller) {
    const auto most = std::min(plan.not_fitting.size(), kNearestTried);
    return std::any_of(plan.not_fitting.begin(), plan.not_fitting.begin() + most, [&](auto& large) {
      const ParallelLayout layout{
          .tp = large.layout.tp, .pp = large.layout.pp, .sp = large.layout.sp};
      return PlanLayout(checkpoint, model, cluster, smaller, layout).fits();
    });
  };
  Workload smaller = workload;
  const int64_t pages = Greatest(workload.context / workload.page_tokens, [&](int64_t n) {
    smaller.context = n * workload.page_tokens;
    return any_fits(smaller);
  });
  plan.context_that_fits = pages * workload.page_tokens;
  smaller = workload;
  plan.streams_that_fit = Greatest(workload.streams - 1, [&](int64_t n) {
    smaller.streams = n;
    return any_fits(smaller);
  });
}

}  // namespace

Result<LayoutPlan> PlanLayouts(const Checkpoint& checkpoint, const ModelConfig& model,
                               const Cluster& cluster, const Workload& workload) {
  if (workload.context > model.context_max) {
    return InvalidArgument(StrCat("context ", workload.context, ": the model was trained for ",
                                  model.context_max, " positions"),
                           "context");
  }
  LayoutPlan plan;
  for (const ParallelLayout& layout : Candidates(model, cluster.slots())) {
    PlannedLayout planned = PlanLayout(checkpoint, model, cluster, workload, layout);
    (planned.fits() ? plan.fitting : plan.not_fitting).push_back(std::move(planned));
  }
  std::sort(plan.fitting.begin(), plan.fitting.end(), Before);
  std::sort(
      plan.not_fitting.begin(), plan.not_fitting.end(),
      [](const PlannedLayout& a, const PlannedLayout& b) { return a.memory_used < b.memory_used; });
  if (plan.fitting.empty()) AddSmaller(checkpoint, model, cluster, workload, plan);
  return plan;
}

std::string LayoutName(const ParallelLayout& layout) {
  return StrCat("tp=", layout.tp, " pp=", layout.pp, " sp=", layout.sp);
}

std::string CountsText(const std::vector<int>& counts) {
  std::vector<std::string> texts;
  for (const int count : counts) texts.push_back(StrCat(count));
  return Join(texts, ",");
}

std::string LayoutSetting(const ParallelLayout& layout) {
  std::vector<std::string> parts;
  if (layout.tp > 1) parts.push_back(StrCat("tp: ", layout.tp));
  if (layout.pp > 1) parts.push_back(StrCat("pp: ", layout.pp));
  if (layout.sp > 1) parts.push_back(StrCat("sp: ", layout.sp));
  if (!layout.layers_per_stage.empty()) {
    parts.push_back(StrCat("layers_per_stage: \"", CountsText(layout.layers_per_stage), "\""));
  }
  if (!layout.shard_shares.empty()) {
    parts.push_back(StrCat("shard_shares: \"", CountsText(layout.shard_shares), "\""));
  }
  return StrCat("{", Join(parts, ", "), "}");
}

std::string WhatIsLacking(const PlannedLayout& planned, const Cluster& cluster) {
  const HostSpec& host = cluster.hosts[planned.tightest_host];
  const auto has = static_cast<double>(host.memory_bytes);
  return StrCat("needs ", HumanBytes(has * planned.memory_used), " on ", host.name, ", which has ",
                HumanBytes(has));
}

std::string WhyNot(const PlannedLayout& best, const PlannedLayout& other) {
  const double slower = other.seconds - best.seconds;
  if (slower <= 1e-9) return "as fast, with more ranks";
  // What of its own time explains most of the difference.
  const double tokens = kPlannedTokens;
  const double exposed = other.prefill.exposed_s + tokens * other.decode.exposed_s -
                         best.prefill.exposed_s - tokens * best.decode.exposed_s;
  const double compute = other.prefill.compute_s + tokens * other.decode.compute_s -
                         best.prefill.compute_s - tokens * best.decode.compute_s;
  if (exposed > 0 && exposed >= compute) return "waits longer for its links";
  if (compute > 0 && other.layout.world() < best.layout.world()) return "computes on fewer ranks";
  if (compute > 0 && other.layout.tp < best.layout.tp) return "each rank computes more of a layer";
  if (other.layout.pp > best.layout.pp) return "stages wait for each other";
  return "computes longer";
}

}  // namespace echelon
