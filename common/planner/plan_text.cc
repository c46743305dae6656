// How a LayoutPlan is shown: a table for people, an object for programs.

#include <algorithm>
#include <cstdio>

#include "common/json.h"
#include "common/planner/planner.h"
#include "common/strings.h"

namespace echelon {

namespace {

std::string Milliseconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, seconds < 1 ? "%.2f ms" : "%.0f ms", seconds * 1e3);
  return text;
}

std::string Row(const PlannedLayout& p, const PlannedLayout& best, const Workload& workload) {
  char text[256];
  const auto& heaviest = *std::max_element(
      p.ranks.begin(), p.ranks.end(),
      [](const RankMemory& a, const RankMemory& b) { return a.total() < b.total(); });
  std::snprintf(text, sizeof text, "  %-20s %9s %10s %10s %10s %10s %9.1f %+6.0f %%  ",
                LayoutName(p.layout).c_str(),
                HumanBytes(static_cast<double>(heaviest.total())).c_str(),
                Milliseconds(p.prefill.seconds).c_str(), Milliseconds(p.decode.seconds).c_str(),
                Milliseconds(p.decode.exposed_s).c_str(), Milliseconds(p.decode.hidden_s).c_str(),
                static_cast<double>(workload.streams) / p.decode.seconds,
                100 * (p.seconds / best.seconds - 1));
  return StrCat(text, WhyNot(best, p), "\n");
}

std::string Phase(const std::string& what, const PhaseCost& phase) {
  char text[160];
  std::snprintf(text, sizeof text, "  %-24s %10s, of which communication %s exposed, %s hidden",
                what.c_str(), Milliseconds(phase.seconds).c_str(),
                Milliseconds(phase.exposed_s).c_str(), Milliseconds(phase.hidden_s).c_str());
  return text;
}

std::string RanksTable(const PlannedLayout& p, const Cluster& cluster) {
  std::string out = "  rank  host                  weights         KV  activations        all\n";
  constexpr size_t kShown = 16;
  for (size_t r = 0; r < std::min(kShown, p.ranks.size()); ++r) {
    char text[160];
    const RankMemory& m = p.ranks[r];
    std::snprintf(text, sizeof text, "  %4zu  %-18s %10s %10s %12s %10s\n", r,
                  cluster.hosts[p.host_of[r]].name.c_str(),
                  HumanBytes(static_cast<double>(m.weights)).c_str(),
                  HumanBytes(static_cast<double>(m.kv)).c_str(),
                  HumanBytes(static_cast<double>(m.activations)).c_str(),
                  HumanBytes(static_cast<double>(m.total())).c_str());
    out += text;
  }
  if (p.ranks.size() > kShown) out += StrCat("  ... ", p.ranks.size() - kShown, " more\n");
  return out;
}

std::string Chosen(const PlannedLayout& best, const Cluster& cluster, const Workload& workload) {
  char rate[48];
  std::snprintf(rate, sizeof rate, "; %.1f tokens/s\n",
                static_cast<double>(workload.streams) / best.decode.seconds);
  return StrCat("\nChosen: layout: ", LayoutSetting(best.layout), "\n",
                Phase(StrCat("prefill of ", workload.context, " tokens"), best.prefill), "\n",
                Phase(StrCat("decode of ", workload.streams, " streams"), best.decode), rate,
                RanksTable(best, cluster));
}

// What would fit where nothing does.
std::string Smaller(const LayoutPlan& plan) {
  std::vector<std::string> ways;
  if (plan.context_that_fits > 0) ways.push_back(StrCat("--context ", plan.context_that_fits));
  if (plan.streams_that_fit > 0) ways.push_back(StrCat("--streams ", plan.streams_that_fit));
  if (!ways.empty()) return StrCat("It would fit with ", Join(ways, " or with "), ".\n");
  return "Not even a page of one stream fits beside the weights: more hosts, or a smaller "
         "format.\n";
}

Json PhaseJson(const PhaseCost& phase) {
  Json out = Json::MakeObject();
  out.Set("seconds", phase.seconds);
  out.Set("compute_seconds", phase.compute_s);
  out.Set("comm_hidden_seconds", phase.hidden_s);
  out.Set("comm_exposed_seconds", phase.exposed_s);
  return out;
}

Json LayoutJson(const PlannedLayout& p, const Cluster& cluster, const std::string& why) {
  Json out = Json::MakeObject();
  out.Set("tp", p.layout.tp);
  out.Set("pp", p.layout.pp);
  out.Set("sp", p.layout.sp);
  out.Set("layers_per_stage", CountsText(p.layout.layers_per_stage));
  out.Set("shard_shares", CountsText(p.layout.shard_shares));
  out.Set("fits", p.fits());
  if (!why.empty()) out.Set("why_not", why);
  out.Set("memory_used", p.memory_used);
  out.Set("tightest_host", cluster.hosts[p.tightest_host].name);
  out.Set("prefill", PhaseJson(p.prefill));
  out.Set("decode", PhaseJson(p.decode));
  out.Set("request_seconds", p.seconds);
  Json ranks = Json::MakeArray();
  for (size_t r = 0; r < p.ranks.size(); ++r) {
    Json rank = Json::MakeObject();
    rank.Set("host", cluster.hosts[p.host_of[r]].name);
    rank.Set("weight_bytes", p.ranks[r].weights);
    rank.Set("kv_bytes", p.ranks[r].kv);
    rank.Set("activation_bytes", p.ranks[r].activations);
    ranks.Append(std::move(rank));
  }
  out.Set("ranks", std::move(ranks));
  return out;
}

}  // namespace

std::string PlanText(const LayoutPlan& plan, const Cluster& cluster, const Workload& workload,
                     int rows) {
  std::string out = StrCat("Context ", workload.context, ", ", workload.streams, " streams, ",
                           cluster.hosts.size(), " hosts with ", cluster.slots(),
                           " slots; layouts by the time ", "for a prompt of ", workload.context,
                           " and ", static_cast<int>(kPlannedTokens), " tokens on every stream\n");
  const auto shown = [&](const std::vector<PlannedLayout>& all, size_t from) {
    return std::min(all.size(), from + static_cast<size_t>(rows));
  };
  if (!plan.fitting.empty()) out += Chosen(plan.fitting.front(), cluster, workload);
  if (plan.fitting.size() > 1) {
    out +=
        "\nRunners-up              memory    prefill     decode    exposed     hidden  tokens/s"
        "     time\n";
  }
  for (size_t i = 1; i < shown(plan.fitting, 1); ++i) {
    out += Row(plan.fitting[i], plan.fitting.front(), workload);
  }
  if (!plan.not_fitting.empty()) {
    out += plan.fitting.empty() ? "\nNo layout fits. The nearest\n" : "\nWould not fit\n";
  }
  for (size_t i = 0; i < shown(plan.not_fitting, 0); ++i) {
    char text[64];
    const PlannedLayout& p = plan.not_fitting[i];
    std::snprintf(text, sizeof text, "  %-20s ", LayoutName(p.layout).c_str());
    out += StrCat(text, WhatIsLacking(p, cluster), "\n");
  }
  return plan.fitting.empty() ? StrCat(out, Smaller(plan)) : out;
}

std::string PlanJson(const LayoutPlan& plan, const Cluster& cluster, const Workload& workload,
                     int rows) {
  Json out = Json::MakeObject();
  out.Set("context", workload.context);
  out.Set("streams", workload.streams);
  out.Set("chosen", plan.fitting.empty() ? Json() : LayoutJson(plan.fitting.front(), cluster, ""));
  Json runners_up = Json::MakeArray(), not_fitting = Json::MakeArray();
  const auto most = static_cast<size_t>(rows);
  for (size_t i = 1; i < std::min(plan.fitting.size(), most + 1); ++i) {
    runners_up.Append(
        LayoutJson(plan.fitting[i], cluster, WhyNot(plan.fitting.front(), plan.fitting[i])));
  }
  for (size_t i = 0; i < std::min(plan.not_fitting.size(), most); ++i) {
    const PlannedLayout& p = plan.not_fitting[i];
    not_fitting.Append(LayoutJson(p, cluster, WhatIsLacking(p, cluster)));
  }
  out.Set("runners_up", std::move(runners_up));
  out.Set("not_fitting", std::move(not_fitting));
  if (plan.fitting.empty()) {
    out.Set("context_that_fits", plan.context_that_fits);
    out.Set("streams_that_fit", plan.streams_that_fit);
  }
  return out.Dump();
}

}  // namespace echelon
