// echelon simulate: what the cost model says of clusters that nobody here has. H100 hosts whose
// rates were fitted to published measurements, from 8 to 1,024 GPUs: curves as SVG and the figures
// as CSV and JSON beside them.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/svg_chart.h"
#include "common/json.h"
#include "common/planner/memory.h"
#include "common/planner/presets.h"
#include "common/planner/step_cost.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int kGpus[] = {8, 16, 32, 64, 128, 256, 512, 1024};
constexpr int kGpusPerHost = 8;
constexpr double kContext = 8192;          // of the decode curves
constexpr double kStreamsPerGpu = 4;       // of the throughput curve
constexpr double kPromptTokens = 1 << 20;  // of the prefill curve
constexpr int64_t kRankRowsMost = 8192;    // of one sp rank's prefill step ...
constexpr int64_t kRankRowsLeast = 512;    // ... halved until a rank's memory holds its buffers
constexpr double kWeightBytes = 2.0;       // bfloat16

enum class Scenario { kLatency, kThroughput, kMillionTokens };
struct ScenarioInfo {
  Scenario scenario;
  const char* name;
  const char* title;
  const char* speed_label;
};
constexpr ScenarioInfo kScenarios[] = {
    {Scenario::kLatency, "latency", "decode, 1 stream, 8k context", "tokens/s"},
    {Scenario::kThroughput, "throughput", "decode, 4 streams a GPU, 8k context", "tokens/s"},
    {Scenario::kMillionTokens, "million",
     "prefill of 1,048,576 tokens, tp 8 or 16 x sp, up to 8192 rows a rank and step", "tokens/s"},
};

struct SimulatedPoint {
  const ScenarioInfo* scenario = nullptr;
  std::string model;
  ScheduleKind schedule = ScheduleKind::kStandard;
  int gpus = 0;
  ParallelLayout layout;
  int64_t step_rows = 0;  // of all sp ranks together
  double seconds = 0.0;   // of the prompt, or of one token for all streams
  double tokens_s = 0.0;
  double efficiency = 0.0;  // tokens/s a GPU, against the fewest GPUs of the same curve
};

ModelConfig Scheduled(ModelConfig model, ScheduleKind schedule) {
  model.schedule = schedule;
  for (LayerConfig& layer : model.layers) layer.ladder = schedule == ScheduleKind::kLadder;
  model.context_max = static_cast<int>(kPromptTokens);
  return model;
}

std::vector<ParallelLayout> LayoutsOf(Scenario scenario, const ModelConfig& model, int gpus) {
  std::vector<ParallelLayout> out;
  if (scenario == Scenario::kMillionTokens) {
    // 405B needs two hosts for its weights, and sequence-parallel ranks hold all of them.
    for (int tp = 8; tp <= std::min(gpus, 16); tp *= 2) out.push_back({.tp = tp, .sp = gpus / tp});
    return out;
  }
  for (int tp = 1; tp <= std::min(gpus, model.n_heads); tp *= 2) {
    for (int pp = 1; pp <= std::min(gpus / tp, model.n_layers()); pp *= 2) {
      // One stream is fastest on as many GPUs as help it; throughput is asked of all of them.
      if (scenario == Scenario::kLatency || tp * pp == gpus) out.push_back({.tp = tp, .pp = pp});
    }
  }
  return out;
}

// None where the layout does not fit into its GPUs.
std::optional<SimulatedPoint> Simulate(const ScenarioInfo& info, const ModelConfig& model, int gpus,
                                       const ParallelLayout& layout) {
  const bool million = info.scenario == Scenario::kMillionTokens;
  const double streams = info.scenario == Scenario::kThroughput ? kStreamsPerGpu * gpus : 1.0;
  Workload workload;
  workload.context = static_cast<int64_t>(million ? kPromptTokens : kContext);
  workload.streams = static_cast<int64_t>(streams);
  workload.sequences_max = workload.streams;
  const HostSpec host = H100Host();
  const uint64_t gpu_memory = host.memory_bytes / kGpusPerHost;
  const auto fits = [&](int64_t rank_rows) {
    workload.step_tokens_max = rank_rows * layout.sp;
    for (int stage = 0; stage < layout.pp; ++stage) {
      const int rank = layout.RankOf({0, stage, 0});
      if (MemoryOfRank(kWeightBytes, model, layout, rank, workload).total() > gpu_memory) {
        return false;
      }
    }
    return true;
  };
  int64_t rank_rows = kRankRowsMost;
  while (rank_rows >= kRankRowsLeast && !fits(rank_rows)) rank_rows /= 2;
  if (rank_rows < kRankRowsLeast) return {};
  const Cluster cluster = UniformCluster(host, (gpus + kGpusPerHost - 1) / kGpusPerHost,
                                         NvlinkInside(), InfinibandBetween());
  CostInputs inputs{model, layout, cluster, kWeightBytes, kWeightBytes};
  inputs.activation_bytes = 2.0;
  const auto step_rows = million ? workload.step_tokens_max : workload.streams;
  const PhaseCost cost = million
                             ? CostOfPrefill(inputs, kPromptTokens, static_cast<double>(step_rows))
                             : CostOfDecode(inputs, kContext, streams);
  SimulatedPoint point{&info, model.name, model.schedule, gpus, layout, step_rows, cost.seconds};
  point.tokens_s = (million ? kPromptTokens : streams) / cost.seconds;
  return point;
}

// One curve: the best layout for each number of GPUs.
std::vector<SimulatedPoint> CurveOf(const ScenarioInfo& info, const ModelConfig& model) {
  std::vector<SimulatedPoint> curve;
  for (const int gpus : kGpus) {
    std::optional<SimulatedPoint> best;
    for (const ParallelLayout& layout : LayoutsOf(info.scenario, model, gpus)) {
      const auto point = Simulate(info, model, gpus, layout);
      if (point && (!best || point->tokens_s > best->tokens_s)) best = point;
    }
    if (!best) continue;
    const SimulatedPoint& first = curve.empty() ? *best : curve.front();
    best->efficiency = best->tokens_s / best->gpus / (first.tokens_s / first.gpus);
    curve.push_back(*best);
  }
  return curve;
}

std::string Csv(const std::vector<SimulatedPoint>& points) {
  std::string out =
      "scenario,model,schedule,gpus,tp,pp,sp,step_rows,seconds,tokens_per_second,efficiency\n";
  for (const SimulatedPoint& p : points) {
    char text[256];
    std::snprintf(text, sizeof text, "%s,%s,%s,%d,%d,%d,%d,%lld,%.6g,%.6g,%.4f\n", p.scenario->name,
                  p.model.c_str(), ScheduleName(p.schedule), p.gpus, p.layout.tp, p.layout.pp,
                  p.layout.sp, static_cast<long long>(p.step_rows), p.seconds, p.tokens_s,
                  p.efficiency);
    out += text;
  }
  return out;
}

Json ToJson(const std::vector<SimulatedPoint>& points) {
  Json out = Json::MakeArray();
  for (const SimulatedPoint& p : points) {
    Json item = Json::MakeObject();
    item.Set("scenario", p.scenario->name);
    item.Set("model", p.model);
    item.Set("schedule", ScheduleName(p.schedule));
    item.Set("gpus", p.gpus);
    item.Set("tp", p.layout.tp);
    item.Set("pp", p.layout.pp);
    item.Set("sp", p.layout.sp);
    item.Set("step_rows", p.step_rows);
    item.Set("seconds", p.seconds);
    item.Set("tokens_per_second", p.tokens_s);
    item.Set("efficiency", p.efficiency);
    out.Append(std::move(item));
  }
  return out;
}

std::string Picture(const ScenarioInfo& info, const std::vector<SimulatedPoint>& points) {
  Chart speed{info.title, "GPUs", info.speed_label, true, {}};
  Chart efficiency{"tokens/s a GPU, against the fewest GPUs", "GPUs", "", false, {}};
  std::map<std::pair<std::string, ScheduleKind>, std::vector<const SimulatedPoint*>> curves;
  for (const SimulatedPoint& p : points) {
    if (p.scenario == &info) curves[{p.model, p.schedule}].push_back(&p);
  }
  for (const auto& [key, curve] : curves) {
    ChartLine a{StrCat(key.first, " ", ScheduleName(key.second)),
                {},
                key.first == "llama-3.1-70b" ? 0 : 1,
                key.second == ScheduleKind::kStandard};
    ChartLine b = a;
    for (const SimulatedPoint* p : curve) {
      a.points.emplace_back(p->gpus, p->tokens_s);
      b.points.emplace_back(p->gpus, p->efficiency);
    }
    speed.lines.push_back(std::move(a));
    efficiency.lines.push_back(std::move(b));
  }
  return DrawCharts({speed, efficiency});
}

Status WriteFile(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return InvalidArgument(StrCat("cannot write ", path.string()), "out");
  return {};
}

}  // namespace

Status RunSimulate(const SimulateOptions& options) {
  std::vector<SimulatedPoint> points;
  for (const ScenarioInfo& info : kScenarios) {
    for (const char* name : {"llama-3.1-70b", "llama-3.1-405b"}) {
      ASSIGN_OR_RETURN(const ModelConfig model, NamedModel(name));
      for (const ScheduleKind schedule : {ScheduleKind::kStandard, ScheduleKind::kLadder}) {
        for (SimulatedPoint& p : CurveOf(info, Scheduled(model, schedule))) {
          points.push_back(std::move(p));
        }
      }
    }
  }
  if (options.out.empty()) {
    PrintText(options.json ? ToJson(points).Dump() + "\n" : Csv(points));
    return {};
  }
  const std::filesystem::path folder(options.out);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  RETURN_IF_ERROR(WriteFile(folder / "simulate.csv", Csv(points)));
  RETURN_IF_ERROR(WriteFile(folder / "simulate.json", ToJson(points).Dump() + "\n"));
  for (const ScenarioInfo& info : kScenarios) {
    RETURN_IF_ERROR(
        WriteFile(folder / StrCat("simulate-", info.name, ".svg"), Picture(info, points)));
  }
  PrintNote(StrCat("wrote simulate.csv, simulate.json and ", std::size(kScenarios), " SVGs to ",
                   options.out, "\n"));
  return {};
}

}  // namespace echelon
