// The planner's cost model against this engine: calibrates this machine, predicts prefill and
// decode of layouts that it can run (ranks are threads of this process), measures them, prints both
// and the median error. Needs an idle machine for about a minute.
//
// usage: planner_check MODEL [rounds]      the least times of all rounds count; 2 unless given

#include <sys/prctl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/clock.h"
#include "common/model/checkpoint.h"
#include "common/planner/step_cost.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "coordinator/block_manager.h"
#include "worker/calibration.h"
#include "worker/local_group.h"

namespace echelon {
namespace {

constexpr int kChunk = 512;
constexpr int kPageTokens = 16;
constexpr int kDecodes = 12;

struct Case {
  int tp, pp, sp, threads;
  const char* schedule;
  int context, streams;
};
constexpr Case kCases[] = {
    {1, 1, 1, 1, "standard", 256, 1},  {1, 1, 1, 2, "standard", 256, 1},
    {1, 1, 1, 2, "standard", 1024, 1}, {1, 1, 1, 2, "standard", 64, 16},
    {2, 1, 1, 1, "standard", 256, 1},  {2, 1, 1, 1, "standard", 1024, 1},
    {2, 1, 1, 1, "standard", 64, 16},  {2, 1, 1, 1, "ladder", 256, 1},
    {2, 1, 1, 1, "ladder", 128, 4},    {2, 1, 1, 1, "parallel", 256, 1},
    {2, 1, 1, 1, "desync", 128, 4},    {1, 2, 1, 1, "standard", 256, 2},
    {1, 2, 1, 1, "ladder", 128, 8},    {1, 4, 1, 1, "standard", 128, 8},
    {1, 1, 2, 1, "standard", 256, 1},  {1, 1, 2, 1, "standard", 1024, 1},
    {1, 1, 2, 1, "standard", 128, 4},  {1, 1, 2, 1, "standard", 64, 16},
    {3, 1, 1, 1, "standard", 256, 1},  {4, 1, 1, 1, "standard", 128, 4},
    {1, 3, 1, 1, "standard", 128, 6},  {1, 1, 3, 1, "standard", 256, 1},
    {1, 1, 4, 1, "standard", 512, 2},  {2, 2, 1, 1, "standard", 256, 2},
    {2, 1, 2, 1, "standard", 256, 1},  {1, 2, 2, 1, "standard", 256, 2},
    {3, 2, 1, 1, "standard", 128, 2},  {2, 2, 2, 1, "standard", 256, 2},
};
constexpr int kPromptsMin = 2;  // prompts are measured so often: what disturbs a machine only adds

// Sequences of one group, their prompts run and then decoded.
class Streams {
 public:
  Streams(LocalGroup& group, const Case& c)
      : group_(group), case_(c), pages_(group.pages(), kPageTokens, c.sp) {}

  // Seconds of a prompt, the least of all. Leaves the case's streams ready to decode.
  double Prefill() {
    double least = std::numeric_limits<double>::max();
    for (int s = std::min(0, case_.streams - kPromptsMin); s < case_.streams; ++s) {
      const int64_t begin = clock_.NowUs();
      int plans = 0;
      for (int at = 0; at < case_.context; at += kChunk, ++plans) {
        StepPlan plan = NewPlan();
        SequenceStep step = Rows(s, at, std::min(kChunk, case_.context - at));
        step.first = at == 0;
        step.prompt_tokens = case_.context;
        step.params.temperature = 0.0f;
        step.sample = at + kChunk >= case_.context;
        plan.sequences.push_back(step);
        group_.Post(plan);
      }
      for (; plans > 0; --plans) Take();
      least = std::min(least, static_cast<double>(clock_.NowUs() - begin) * 1e-6);
    }
    return least;
  }

  // Seconds of one token of every stream, with as many plans in flight as the scheduler has: the
  // lower quartile of the rounds.
  double Decode(int rounds) {
    const int groups = std::min(case_.pp, case_.streams);
    std::vector<int> position(groups, case_.context);
    const auto post = [&](int g) {
      StepPlan plan = NewPlan();
      for (int s = g; s < case_.streams; s += groups) {
        SequenceStep step = Rows(s, position[g], 1);
        step.tokens = {kTokenFromLastStep};
        step.sample = true;
        plan.sequences.push_back(step);
      }
      ++position[g];
      group_.Post(plan);
    };
    const int ahead = case_.pp == 1 ? 2 : groups;
    for (int i = 0; i < ahead; ++i) post(i % groups);
    const int warm = 2 * groups, total = warm + rounds * groups;
    std::vector<double> seconds;
    int64_t begin = 0;
    for (int i = 0; i < total; ++i) {
      if (i >= warm && (i - warm) % groups == 0) {
        const int64_t now = clock_.NowUs();
        if (i > warm) seconds.push_back(static_cast<double>(now - begin) * 1e-6);
        begin = now;
      }
      Take();
      if (i + ahead < total) post((i + ahead) % groups);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 4];
  }

 private:
  StepPlan NewPlan() {
    StepPlan plan;
    plan.step_id = ++steps_;
    return plan;
  }
  SequenceStep Rows(int stream, int start, int rows) {
    SequenceStep step;
    step.id = stream + 1 + kPromptsMin;
    step.start_position = start;
    for (int i = 0; i < rows; ++i) step.tokens.push_back(1 + (start + i) % 100);
    step.new_pages = pages_.Append(step.id, pages_.PagesMissing(step.id, start + rows));
    return step;
  }
  void Take() {
    const auto result = group_.Take();
    if (!result.ok()) {
      std::fprintf(stderr, "planner_check: %s\n", result.error().message.c_str());
      std::exit(1);
    }
  }

  LocalGroup& group_;
  const Case& case_;
  SystemClock clock_;
  uint64_t steps_ = 0;
  BlockManager pages_;
};

Result<ModelConfig> ModelOf(const Checkpoint& checkpoint, const Case& c) {
  ModelSettings settings;
  settings.schedule = c.schedule;
  if (settings.schedule == "desync") settings.desync_pattern = "10";
  ASSIGN_OR_RETURN(EffectiveModel effective, ModelFrom(checkpoint.config(), settings));
  return effective.model;
}

struct Measured {
  double prefill = 0.0, decode = 0.0;  // seconds; 0 = not yet
};

LocalGroupOptions OptionsOf(const Case& c) {
  LocalGroupOptions options;
  options.layout.tp = c.tp;
  options.layout.pp = c.pp;
  options.layout.sp = c.sp;
  options.backend.threads = c.threads;
  options.executor.step_tokens_max = kChunk;
  options.executor.page_tokens = kPageTokens;
  options.executor.context_max = c.context + 128;
  options.executor.kv_memory_bytes = 512 << 20;
  return options;
}

// Keeps the least of what was measured before and now.
Status Measure(const Checkpoint& checkpoint, const Case& c, Measured& measured) {
  ASSIGN_OR_RETURN(const ModelConfig model, ModelOf(checkpoint, c));
  ASSIGN_OR_RETURN(const auto group, LocalGroup::Start(checkpoint, model, OptionsOf(c)));
  Streams streams(*group, c);
  const double prefill = streams.Prefill(), decode = streams.Decode(kDecodes);
  const auto lower = [](double& value, double now) {
    if (value == 0.0 || now < value) value = now;
  };
  lower(measured.prefill, prefill);
  lower(measured.decode, decode);
  return {};
}

Status Compare(const Checkpoint& checkpoint, const Calibration& machine, const Case& c,
               const Measured& measured, std::vector<double>& errors) {
  ASSIGN_OR_RETURN(const ModelConfig model, ModelOf(checkpoint, c));
  const ParallelLayout layout = OptionsOf(c).layout;
  HostSpec host = machine.host;
  host.slots = layout.world();
  host.cores_per_rank_max = c.threads;
  const Cluster cluster = UniformCluster(host, 1, machine.inside, machine.inside);
  const CostInputs inputs{model, layout, cluster};
  const double prefill = CostOfPrefill(inputs, c.context, kChunk).seconds;
  const double decode = CostOfDecode(inputs, c.context, c.streams).seconds;
  errors.push_back(std::abs(prefill / measured.prefill - 1));
  errors.push_back(std::abs(decode / measured.decode - 1));
  std::printf("%2d %2d %2d %7d %-8s %7d %7d | %8.1f %8.1f %+6.1f %% | %8.2f %8.2f %+6.1f %%\n",
              c.tp, c.pp, c.sp, c.threads, c.schedule, c.context, c.streams, measured.prefill * 1e3,
              prefill * 1e3, 100 * (prefill / measured.prefill - 1), measured.decode * 1e3,
              decode * 1e3, 100 * (decode / measured.decode - 1));
  return {};
}

void PrintRates(const char* name, const ProcessorRates& r) {
  std::printf("%s: ns per 1000 weights by rows", name);
  for (const auto& point : r.layers.points()) {
    std::printf(" %.0f:%.1f", point.rows, point.seconds * 1e12);
  }
  std::printf("; head");
  for (const auto& point : r.head.points()) {
    std::printf(" %.0f:%.1f", point.rows, point.seconds * 1e12);
  }
  std::printf("\n  sub-block %.1f us, row element %.2f ns, attention %.1f GB/s, %.1f GMAC/s\n",
              r.block_s * 1e6, r.row_element_s * 1e9, r.kv_bytes_s * 1e-9,
              r.attention_macs_s * 1e-9);
}

Status Check(const std::string& path, int rounds) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(path));
  Calibrator calibrator(*checkpoint, BackendOptions{});
  Measured measured[std::size(kCases)];
  for (int round = 0; round < rounds; ++round) {
    RETURN_IF_ERROR(calibrator.Measure());
    for (size_t i = 0; i < std::size(kCases); ++i) {
      RETURN_IF_ERROR(Measure(*checkpoint, kCases[i], measured[i]));
    }
  }
  const Calibration machine = calibrator.Rates();
  PrintRates("one thread a rank", machine.host.one);
  PrintRates("all threads", machine.host.all);
  std::printf("inside: %.1f us, %.2f GB/s, hidden %.2f\n\n", machine.inside.latency_s * 1e6,
              machine.inside.bytes_s * 1e-9, machine.inside.hidden);
  std::printf(
      "                                            |  prefill of a prompt, ms   |"
      "  decode of all streams, ms\n");
  std::printf(
      "tp pp sp threads schedule context streams | measured predicted  error |"
      " measured predicted  error\n");
  std::vector<double> errors;
  for (size_t i = 0; i < std::size(kCases); ++i) {
    RETURN_IF_ERROR(Compare(*checkpoint, machine, kCases[i], measured[i], errors));
  }
  std::sort(errors.begin(), errors.end());
  std::set<std::tuple<int, int, int>> layouts;
  for (const Case& c : kCases) layouts.insert({c.tp, c.pp, c.sp});
  std::printf(
      "\n%zu layouts (tp, pp, sp), %zu cases, %zu figures: median error %.1f %%, greatest "
      "%.1f %%\n",
      layouts.size(), std::size(kCases), errors.size(), 100 * errors[errors.size() / 2],
      100 * errors.back());
  return {};
}

}  // namespace
}  // namespace echelon

int main(int argc, char** argv) {
  prctl(PR_SET_TIMERSLACK, 1'000);  // as the worker does: ranks nap for microseconds
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: planner_check MODEL [rounds]\n");
    return 2;
  }
  const int rounds = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2;
  const echelon::Status status = echelon::Check(argv[1], rounds);
  if (status.ok()) return 0;
  std::fprintf(stderr, "planner_check: %s\n", status.error().message.c_str());
  return 1;
}
