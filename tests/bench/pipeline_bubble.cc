// The bubble of a pipeline: the share of its stages' time that is idle. Ranks share cores here, so
// the pipeline is replayed: the scheduler and a group of `stages` ranks generate for `streams`
// requests with plans in flight, and the order of the plans is recorded; then the same plans run
// one at a time, so that each stage's busy time is measured with the cores to itself; then those
// times are laid out as if every stage had its own machine (tests/support/pipeline_replay.h). The
// bubble is 1 - sum of busy / (stages * span). Exits with 1 where that of the whole run is 20 % or
// more.
//
// usage: pipeline_bubble MODEL [stages] [streams] [tokens] [layers,of,stages]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "coordinator/scheduler.h"
#include "tests/support/pipeline_replay.h"
#include "worker/local_group.h"

namespace echelon {
namespace {

constexpr double kBubbleMax = 0.20;
constexpr int kPromptTokens = 64;
constexpr int kWarmTokens = 4;  // of each stream: left out of the steady part
constexpr int kRounds = 5;      // of measuring busy times

struct Recorded : testing::ReplayedPlan {
  StepPlan plan;
};

struct Setup {
  int stages = 4, streams = 8, tokens = 48;
  std::string path;
  std::string layers_per_stage;  // "" = balanced by weights
};

Result<std::unique_ptr<LocalGroup>> StartGroup(const Checkpoint& checkpoint, const Setup& setup) {
  LocalGroupOptions options;
  LayoutSettings layout;
  layout.pp = setup.stages;
  layout.layers_per_stage = setup.layers_per_stage;
  ASSIGN_OR_RETURN(options.layout, LayoutFrom(layout));
  options.executor.context_max = kPromptTokens + setup.tokens + 16;
  options.executor.kv_memory_bytes = 256 << 20;
  return LocalGroup::Start(checkpoint, checkpoint.config(), options);
}

// The plans of the real scheduler, with as many in flight as it allows.
Result<std::vector<Recorded>> Record(const Checkpoint& checkpoint, const Setup& setup) {
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(setup.path));
  ASSIGN_OR_RETURN(const auto group, StartGroup(checkpoint, setup));
  SchedulerLimits limits;
  limits.pp = setup.stages;
  Scheduler scheduler(limits);
  scheduler.Start(1, {group->pages(), 16, group->context_max(), checkpoint.config().vocab_size});
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int s = 0; s < setup.streams; ++s) {
    Request request;
    request.ignore_eos = true;
    request.params.temperature = 0.0f;
    sequences.push_back(std::make_unique<Sequence>(s + 1, request, *tokenizer));
    std::vector<int32_t> prompt;
    for (int i = 0; i < kPromptTokens; ++i) prompt.push_back(1 + (7 * s + i) % 200);
    sequences.back()->SetPrompt(prompt, setup.tokens);
    scheduler.Add(sequences.back().get());
  }
  const SystemClock clock;
  const auto seconds_since = [&](int64_t begin) {
    return static_cast<double>(clock.NowUs() - begin) * 1e-6;
  };
  std::vector<Recorded> record;
  int committed = 0;
  for (;;) {
    int64_t begin = clock.NowUs();
    while (auto plan = scheduler.Plan(clock.NowUs())) {
      Recorded entry;
      entry.plan = *plan;
      entry.committed = committed;
      entry.scheduler_s = seconds_since(begin);
      entry.decodes = !plan->sequences.empty();
      for (const SequenceStep& step : plan->sequences) {
        const Sequence& sequence = *sequences[step.id - 1];
        entry.decodes &= step.tokens.size() == 1 && sequence.generated() >= kWarmTokens &&
                         sequence.generated() < setup.tokens - kWarmTokens;
      }
      group->Post(*plan);
      record.push_back(std::move(entry));
      begin = clock.NowUs();
    }
    if (committed == static_cast<int>(record.size())) return record;
    ASSIGN_OR_RETURN(const StepResult result, group->Take());
    begin = clock.NowUs();
    ASSIGN_OR_RETURN(const auto items, scheduler.Commit(result));
    for (const CommitItem& item : items) {
      if (item.sampled) item.sequence->Append(item.result->sampled[0], clock.NowUs());
      if (item.sequence->finished()) scheduler.Remove(item.sequence->id());
    }
    record[committed++].scheduler_s += seconds_since(begin);
  }
}

// Every stage's busy time of every plan, with nothing else running: [plan][stage], seconds.
Result<std::vector<std::vector<double>>> BusyOnce(const Checkpoint& checkpoint, const Setup& setup,
                                                  const std::vector<Recorded>& record) {
  ASSIGN_OR_RETURN(const auto group, StartGroup(checkpoint, setup));
  std::vector<std::vector<double>> busy(record.size(), std::vector<double>(setup.stages, 0.0));
  // The last stage reports its own time at once, the others' with the step after.
  for (size_t n = 0; n < record.size(); ++n) {
    ASSIGN_OR_RETURN(const StepResult result, group->Run(record[n].plan));
    for (const RankTiming& timing : result.timings) {
      const bool own = timing.rank == setup.stages - 1;
      if (!own && n == 0) continue;
      busy[own ? n : n - 1][timing.rank] = timing.compute_seconds;
    }
  }
  return busy;
}

// The least of some rounds, plan by plan: what else runs on this machine only adds, for seconds at
// a time, and is no part of the pipeline.
Status MeasureBusy(const Checkpoint& checkpoint, const Setup& setup,
                   std::vector<Recorded>& record) {
  std::vector<std::vector<std::vector<double>>> rounds;
  for (int round = 0; round < kRounds; ++round) {
    ASSIGN_OR_RETURN(auto busy, BusyOnce(checkpoint, setup, record));
    rounds.push_back(std::move(busy));
  }
  for (size_t n = 0; n < record.size(); ++n) {
    for (int s = 0; s < setup.stages; ++s) {
      double least = rounds[0][n][s];
      for (const auto& round : rounds) least = std::min(least, round[n][s]);
      record[n].busy_s.push_back(least);
    }
  }
  return {};
}

Status Run(const Setup& setup, double& bubble) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(setup.path));
  ASSIGN_OR_RETURN(std::vector<Recorded> record, Record(*checkpoint, setup));
  RETURN_IF_ERROR(MeasureBusy(*checkpoint, setup, record));
  record.pop_back();  // the others' time of the last plan never comes
  std::printf("%zu plans, %d stages, %d streams of %d + %d tokens\n", record.size(), setup.stages,
              setup.streams, kPromptTokens, setup.tokens);
  for (int s = 0; s < setup.stages; ++s) {
    std::vector<double> busy;
    for (const Recorded& entry : record) {
      if (entry.decodes) busy.push_back(entry.busy_s[s]);
    }
    if (busy.empty()) return InternalError("no plan holds decodes alone");
    std::sort(busy.begin(), busy.end());
    std::printf("stage %d: busy %.3f ms with a decode plan (quartiles %.3f to %.3f)\n", s,
                busy[busy.size() / 2] * 1e3, busy[busy.size() / 4] * 1e3,
                busy[busy.size() * 3 / 4] * 1e3);
  }
  const auto steady =
      testing::LayOut(record, setup.stages, [](const auto& plan) { return plan.decodes; });
  const auto whole = testing::LayOut(record, setup.stages, [](const auto&) { return true; });
  bubble = whole.bubble(setup.stages);
  std::printf(
      "bubble: %.1f %% of the whole run (prompts, filling and draining included), %.1f %% "
      "of its steady decodes; span %.3f s\n",
      100 * bubble, 100 * steady.bubble(setup.stages), whole.span_s);
  return {};
}

}  // namespace
}  // namespace echelon

int main(int argc, char** argv) {
  if (argc < 2 || argc > 6) {
    std::fprintf(stderr,
                 "usage: pipeline_bubble MODEL [stages] [streams] [tokens] [layers,of,stages]\n");
    return 2;
  }
  echelon::Setup setup;
  setup.path = argv[1];
  int* const counts[] = {&setup.stages, &setup.streams, &setup.tokens};
  if (argc > 5) setup.layers_per_stage = argv[5];
  for (int i = 2; i < std::min(argc, 5); ++i) *counts[i - 2] = std::max(1, std::atoi(argv[i]));
  double bubble = 0.0;
  const echelon::Status status = echelon::Run(setup, bubble);
  if (!status.ok()) {
    std::fprintf(stderr, "pipeline_bubble: %s\n", status.error().message.c_str());
    return 1;
  }
  return bubble < echelon::kBubbleMax ? 0 : 1;
}
