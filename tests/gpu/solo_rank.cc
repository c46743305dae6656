#include "tests/gpu/solo_rank.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/median.h"
#include "common/rank_part.h"
#include "worker/weights.h"

namespace echelon::bench {

namespace {

constexpr int kUntimedSteps = 3;  // graphs are captured, clocks go up

// The world of a rank alone. RankGroups splits the group of tp and its host's first.
class SoloWorld : public SoloCommunicator {
 public:
  explicit SoloWorld(const ParallelLayout& layout)
      : SoloCommunicator(0, layout.world()), tp_(layout.tp) {}
  std::unique_ptr<Communicator> Split(int, int) override {
    return std::make_unique<SoloCommunicator>(0, splits_++ < 2 ? tp_ : size());
  }

 private:
  const int tp_;
  int splits_ = 0;
};

}  // namespace

double StepTimes::Sum() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

double StepTimes::Median() const { return MedianOf(seconds); }

SoloRank::SoloRank(const SoloOptions& options)
    : options_(options), world_(std::make_unique<SoloWorld>(options.layout)) {}

Result<std::unique_ptr<SoloRank>> SoloRank::Start(const Checkpoint& checkpoint,
                                                  const ModelConfig& model,
                                                  const SoloOptions& options) {
  CHECK(options.positions % (ExecutorOptions().page_tokens * options.layout.sp) == 0);
  std::unique_ptr<SoloRank> solo(new SoloRank(options));
  BackendOptions backend = options.backend;
  backend.timed = backend.timed || options.trace != nullptr;
  ASSIGN_OR_RETURN(solo->backend_, MakeBackend(backend));
  if (options.trace != nullptr) {
    solo->backend_ = MakeTimedBackend(std::move(solo->backend_), *options.trace);
  }
  solo->link_ = std::make_unique<EmulatedLink>(*solo->backend_);
  ASSIGN_OR_RETURN(Weights weights,
                   LoadWeights(checkpoint, model, PartOf(model, options.layout, 0),
                               solo->backend_->FreeMemoryBytes(), *solo->backend_));
  if (options.trace != nullptr) options.trace->NameWeights(weights, 0);
  ExecutorOptions executor;
  executor.layout = options.layout;
  executor.step_tokens_max = options.step_rows;
  executor.sequences_max = std::max(options.streams, 1);
  executor.context_max = options.positions;
  executor.token_split = options.split;
  executor.comm.new_wire = solo->link_->factory();
  // Keys and values of float16; a rank of tp has no more of them, one of sp its part and a ring's
  // messages.
  const uint64_t position_bytes =
      uint64_t{4} * static_cast<uint64_t>(model.n_layers() * model.n_kv_heads * model.head_dim);
  executor.kv_memory_bytes = static_cast<uint64_t>(options.streams) * options.positions *
                                 position_bytes / options.layout.sp +
                             (uint64_t{64} << 20);
  ASSIGN_OR_RETURN(solo->executor_, Executor::Create(model, executor, std::move(weights),
                                                     *solo->backend_, *solo->world_, solo->clock_));
  return solo;
}

StepPlan SoloRank::NewPlan() {
  StepPlan plan;
  plan.step_id = ++steps_;
  return plan;
}

// The ranks keep a sequence's pages in turn, the other one the first: then this one has the last of
// an even number, and draws.
SequenceStep SoloRank::Rows(int stream, int begin, int count, int prompt) {
  const int page_tokens = ExecutorOptions().page_tokens, sp = options_.layout.sp;
  const int per_rank = executor_->pages() / sp;
  const int of_stream = options_.positions / page_tokens;
  SequenceStep step;
  step.id = first_ + static_cast<SequenceId>(stream);
  step.start_position = begin;
  step.first = begin == 0;
  step.prompt_tokens = step.first ? prompt : 0;
  step.params.temperature = 0.0f;
  for (int i = begin; i < begin + count && begin < prompt; ++i) {
    step.tokens.push_back(1 + (i * 7 + stream * 13) % 250);
  }
  if (begin >= prompt) step.tokens = {kTokenFromLastStep};
  step.sample = begin + count >= prompt;
  const auto pages = [&](int positions) { return (positions + page_tokens - 1) / page_tokens; };
  for (int p = pages(begin); p < pages(begin + count); ++p) {
    step.new_pages.push_back((p + 1) % sp * per_rank + (stream * of_stream + p) / sp);
  }
  return step;
}

Result<StepTimes> SoloRank::Prompt(int streams, int tokens) {
  CHECK(streams <= options_.streams && tokens < options_.positions);
  std::vector<StepPlan> plans;
  std::vector<SequenceId> released(streams_);
  std::iota(released.begin(), released.end(), first_);
  first_ += static_cast<SequenceId>(streams_);
  StepPlan plan = NewPlan();
  plan.released = std::move(released);
  int room = options_.step_rows;
  for (int stream = 0; stream < streams; ++stream) {
    for (int begin = 0; begin < tokens;) {
      const int count = std::min(room, tokens - begin);
      plan.sequences.push_back(Rows(stream, begin, count, tokens));
      begin += count;
      room -= count;
      if (room > 0 && (begin < tokens || stream + 1 < streams)) continue;
      plans.push_back(std::move(plan));
      plan = NewPlan();
      room = options_.step_rows;
    }
  }
  --steps_;  // the last was not taken
  streams_ = streams;
  length_ = tokens;
  return Run(plans, 0);
}

Result<StepTimes> SoloRank::Decode(int steps) {
  CHECK(length_ + kUntimedSteps + steps <= options_.positions);
  std::vector<StepPlan> plans;
  for (int i = 0; i < kUntimedSteps + steps; ++i, ++length_) {
    StepPlan& plan = plans.emplace_back(NewPlan());
    for (int stream = 0; stream < streams_; ++stream) {
      plan.sequences.push_back(Rows(stream, length_, 1, 1));
    }
  }
  return Run(plans, kUntimedSteps);
}

Result<StepTimes> SoloRank::Run(const std::vector<StepPlan>& plans, int untimed) {
  StepTimes times;
  size_t begun = 0;
  LinkTraffic before;
  int64_t from_us = clock_.NowUs(), begin_ns = 0;
  for (size_t ended = 0; ended < plans.size(); ++ended) {
    const bool first = ended == static_cast<size_t>(untimed);
    if (first && executor_->begun() == 0) before = link_->Traffic();
    if (first) from_us = clock_.NowUs();
    while (begun < plans.size() && executor_->TakesPlan()) {
      // What was untimed ends before the rest begins.
      if (begun == static_cast<size_t>(untimed) && ended < begun) break;
      if (options_.trace != nullptr && executor_->begun() > 0) break;  // told one by one
      begin_ns = Trace::NowNs();
      executor_->Begin(plans[begun++]);
    }
    ASSIGN_OR_RETURN(const std::optional<StepResult> result, executor_->End());
    const int64_t now_us = clock_.NowUs();
    if (options_.trace != nullptr) options_.trace->AddStep(plans[ended], begin_ns);
    for (const SequenceResult& sequence : result->sequences) {
      for (const SampledToken& drawn : sequence.sampled) {
        times.tokens.push_back(drawn.token);
        times.logits.push_back(drawn.logit);
      }
    }
    if (ended < static_cast<size_t>(untimed)) continue;
    times.seconds.push_back(1e-6 * static_cast<double>(now_us - std::exchange(from_us, now_us)));
    const RankTiming& mine = result->timings.front();
    times.hidden_s += mine.comm_hidden_seconds;
    times.exposed_s += mine.comm_exposed_seconds;
    times.keys_passed += static_cast<int>(mine.keys_passed);
  }
  const LinkTraffic after = link_->Traffic();
  times.traffic = {after.operations - before.operations, after.bytes - before.bytes,
                   after.delayed_s - before.delayed_s};
  return times;
}

}  // namespace echelon::bench
