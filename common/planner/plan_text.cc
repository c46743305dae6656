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

std::string Row(const PlannedLayout& p, const Workload& workload, const std::string& remark) {
  char text[256];
  const auto& heaviest = *std::max_element(
      p.ranks.begin(), p.ranks.end(),
      [](const RankMemory& a, const RankMemory& b) { return a.total() < b.total(); });
  std::snprintf(text, sizeof text, "  %-19s %10s %10s %11s %11s %9s %9.1f  ",
                LayoutName(p.layout).c_str(),
                HumanBytes(static_cast<double>(heaviest.total())).c_str(),
                Milliseconds(p.prefill.seconds).c_str(), Milliseconds(p.decode.seconds).c_str(),
                Milliseconds(p.decode.exposed_s).c_str(), Milliseconds(p.decode.hidden_s).c_str(),
                static_cast<double>(workload.streams) / p.decode.seconds);
  return StrCat(text, remark, "\n");
}

std::string RanksTable(const PlannedLayout& p, const Cluster& cluster) {
  std::string out = "  rank host                 weights         KV  activations\n";
  constexpr size_t kShown = 16;
  for (size_t r = 0; r < std::min(kShown, p.ranks.size()); ++r) {
    char text[160];
    const RankMemory& m = p.ranks[r];
    std::snprintf(text, sizeof text, "  %4zu %-18s %10s %10s %12s\n", r,
                  cluster.hosts[cluster.HostOf(static_cast<int>(r))].name.c_str(),
                  HumanBytes(static_cast<double>(m.weights)).c_str(),
                  HumanBytes(static_cast<double>(m.kv)).c_str(),
                  HumanBytes(static_cast<double>(m.activations)).c_str());
    out += text;
  }
  if (p.ranks.size() > kShown) out += StrCat("  ... ", p.ranks.size() - kShown, " more\n");
  return out;
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
  out.Set("layers_per_stage", StagesText(p.layout));
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
    rank.Set("host", cluster.hosts[cluster.HostOf(static_cast<int>(r))].name);
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
  std::string out = StrCat("context ", workload.context, ", ", workload.streams,
                           " streams; memory is the fullest rank's, exposed and hidden are "
                           "communication of a decode step\n");
  const std::string head =
      "  layout                  memory    prefill      decode     exposed    hidden  tokens/s\n";
  const auto shown = [&](const std::vector<PlannedLayout>& all, size_t from) {
    return std::min(all.size(), from + static_cast<size_t>(rows));
  };
  if (plan.fitting.empty()) {
    out += "\nNo layout fits.\n";
  } else {
    const PlannedLayout& best = plan.fitting.front();
    out += StrCat("\nChosen: ", LayoutName(best.layout), ", the least time for a prompt of ",
                  workload.context, " and ", static_cast<int>(kPlannedTokens),
                  " tokens on every stream\n", head, Row(best, workload, ""),
                  RanksTable(best, cluster));
    if (best.layout.pp > 1) {
      out += StrCat("  layers of the stages: ", StagesText(best.layout), "\n");
    }
    if (plan.fitting.size() > 1) out += StrCat("\nRunners-up\n", head);
    for (size_t i = 1; i < shown(plan.fitting, 1); ++i) {
      out += Row(plan.fitting[i], workload, WhyNot(best, plan.fitting[i], cluster));
    }
  }
  if (!plan.not_fitting.empty()) out += StrCat("\nWould not fit\n", head);
  for (size_t i = 0; i < shown(plan.not_fitting, 0); ++i) {
    const PlannedLayout& p = plan.not_fitting[i];
    out += Row(p, workload, WhyNot(p, p, cluster));
  }
  return out;
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
    runners_up.Append(LayoutJson(plan.fitting[i], cluster,
                                 WhyNot(plan.fitting.front(), plan.fitting[i], cluster)));
  }
  for (size_t i = 0; i < std::min(plan.not_fitting.size(), most); ++i) {
    const PlannedLayout& p = plan.not_fitting[i];
    not_fitting.Append(LayoutJson(p, cluster, WhyNot(p, p, cluster)));
  }
  out.Set("runners_up", std::move(runners_up));
  out.Set("not_fitting", std::move(not_fitting));
  return out.Dump();
}

}  // namespace echelon
