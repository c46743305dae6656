#include "worker/calibration.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/clock.h"
#include "common/network.h"
#include "common/rank_part.h"
#include "common/shard_elements.h"
#include "common/strings.h"
#include "common/sum_share.h"
#include "worker/comm/local_comm.h"
#include "worker/comm/solo_comm.h"
#include "worker/executor.h"

namespace echelon {

namespace {

// Rows of a step at which matrix products are measured, besides the default step_tokens_max.
constexpr int kRows[] = {1, 4, 16, 64};
constexpr int kRowsMax = 512;
constexpr int kContext = 1024;  // where attention is measured
constexpr int kChunk = 64;      // rows of its prefill steps
constexpr int kLateChunks = 3, kLateDecodes = 8;
constexpr int kPositions = kContext + kLateChunks * kChunk + kLateDecodes;  // of the longest
constexpr int kShards = 4;  // the part of a rank is measured of a group of so many
constexpr int kBatch = 16;  // sequences of the sampling measurement

// One rank of `tp`, alone, with its steps' times.
class SoloRank {
 public:
  static Result<std::unique_ptr<SoloRank>> Start(const Checkpoint& checkpoint,
                                                 BackendOptions options, int threads, int tp) {
    auto solo = std::unique_ptr<SoloRank>(new SoloRank(tp));
    options.threads = threads;
    ASSIGN_OR_RETURN(solo->backend_, MakeBackend(options));
    const ModelConfig& model = checkpoint.config();
    ExecutorOptions executor;
    executor.layout.tp = tp;
    executor.step_tokens_max = kRowsMax;
    executor.context_max = kPositions;
    executor.sequences_max = kBatch;
    executor.kv_memory_bytes = 1ull << 30;
    ASSIGN_OR_RETURN(Weights weights,
                     LoadWeights(checkpoint, model, PartOf(model, executor.layout, 0),
                                 solo->backend_->FreeMemoryBytes(), *solo->backend_));
    ASSIGN_OR_RETURN(solo->executor_,
                     Executor::Create(model, executor, std::move(weights), *solo->backend_,
                                      solo->world_, solo->clock_));
    return solo;
  }

  // Seconds of a step of `sequences` new sequences with `rows` rows each. The least of a few: what
  // disturbs a machine only adds.
  Result<double> FreshStep(int sequences, int rows, bool sample) {
    double least = std::numeric_limits<double>::max();
    const int repeats = rows < kChunk ? 6 : 3;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      StepPlan plan = NewPlan();
      for (int s = 0; s < sequences; ++s) plan.sequences.push_back(Begin(rows, sample));
      ASSIGN_OR_RETURN(const double time, Run(plan));
      least = std::min(least, time);
    }
    return least;
  }

  // Seconds of a fresh step of kRowsMax rows, and, with about kContext positions before, of kChunk
  // rows and of a decode without sampling.
  struct Late {
    double first = 0.0, chunk = 0.0, decode = 0.0;
  };
  Result<Late> LateSteps() {
    constexpr double kNone = std::numeric_limits<double>::max();
    Late late{0.0, kNone, kNone};
    StepPlan plan = NewPlan();
    plan.sequences.push_back(Begin(kRowsMax, false));
    const SequenceId id = plan.sequences[0].id;
    ASSIGN_OR_RETURN(late.first, Run(plan));
    int at = kRowsMax;
    std::vector<int> steps = {kContext - kRowsMax};
    steps.insert(steps.end(), kLateChunks, kChunk);
    steps.insert(steps.end(), kLateDecodes, 1);
    for (const int rows : steps) {
      ASSIGN_OR_RETURN(const double time, Run(GoOn(id, at, rows)));
      if (rows == kChunk) late.chunk = std::min(late.chunk, time);
      if (rows == 1) late.decode = std::min(late.decode, time);
      at += rows;
    }
    return late;
  }

 private:
  explicit SoloRank(int tp) : world_(0, tp) {}

  StepPlan NewPlan() {
    StepPlan plan;
    plan.step_id = ++steps_;
    plan.released = std::exchange(known_, {});
    next_page_ = 0;
    return plan;
  }
  SequenceStep Begin(int rows, bool sample) {
    SequenceStep step;
    step.id = ++sequences_;
    known_.push_back(step.id);
    step.first = true;
    step.prompt_tokens = rows;
    step.sample = sample;
    step.params.temperature = 0.0f;
    AddRows(step, 0, rows);
    return step;
  }
  StepPlan GoOn(SequenceId id, int start, int rows) {
    StepPlan plan;
    plan.step_id = ++steps_;
    SequenceStep step;
    step.id = id;
    AddRows(step, start, rows);
    plan.sequences.push_back(step);
    return plan;
  }
  void AddRows(SequenceStep& step, int start, int rows) {
    step.start_position = start;
    for (int i = 0; i < rows; ++i) step.tokens.push_back(1 + (start + i) % 100);
    const int page_tokens = ExecutorOptions().page_tokens;
    const auto pages = [&](int positions) { return (positions + page_tokens - 1) / page_tokens; };
    for (int p = pages(start); p < pages(start + rows); ++p) step.new_pages.push_back(next_page_++);
  }
  Result<double> Run(const StepPlan& plan) {
    const int64_t begin = clock_.NowUs();
    RETURN_IF_ERROR(executor_->Run(plan));
    return static_cast<double>(clock_.NowUs() - begin) * 1e-6;
  }

  SystemClock clock_;
  SoloCommunicator world_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Executor> executor_;
  uint64_t steps_ = 0;
  SequenceId sequences_ = 0;
  std::vector<SequenceId> known_;
  int32_t next_page_ = 0;
};

void Lower(double& value, double other) {
  if (value == 0.0 || other < value) value = other;
}

}  // namespace

Calibrator::Calibrator(const Checkpoint& checkpoint, const BackendOptions& backend)
    : checkpoint_(checkpoint), backend_(backend) {
  if (backend_.name != "auto") return;
  backend_.name = "cpu";
  if (!MakeBackend(backend_).ok()) backend_.name = "reference";
}

void Calibrator::Times::KeepLeast(const Times& other) {
  for (const auto& [rows, seconds] : other.whole) Lower(whole[rows], seconds);
  for (const auto& [rows, seconds] : other.part) Lower(part[rows], seconds);
  Lower(sampled_one, other.sampled_one);
  Lower(sampled_batch, other.sampled_batch);
  Lower(late_decode, other.late_decode);
  Lower(late_chunk, other.late_chunk);
}

void Calibrator::LinkTimes::KeepLeast(const LinkTimes& other) {
  Lower(small, other.small);
  Lower(large, other.large);
  Lower(overlapped, other.overlapped);
}

Result<Calibrator::Times> Calibrator::MeasureRank(int threads) const {
  Times times;
  const int shards = std::min(kShards, checkpoint_.config().n_heads);
  {
    ASSIGN_OR_RETURN(auto part, SoloRank::Start(checkpoint_, backend_, threads, shards));
    for (const int rows : {1, kChunk}) {
      ASSIGN_OR_RETURN(times.part[rows], part->FreshStep(1, rows, false));
    }
  }
  ASSIGN_OR_RETURN(auto whole, SoloRank::Start(checkpoint_, backend_, threads, 1));
  for (const int rows : kRows) {
    ASSIGN_OR_RETURN(times.whole[rows], whole->FreshStep(1, rows, false));
  }
  ASSIGN_OR_RETURN(times.sampled_one, whole->FreshStep(1, 1, true));
  ASSIGN_OR_RETURN(times.sampled_batch, whole->FreshStep(kBatch, 1, true));
  ASSIGN_OR_RETURN(const SoloRank::Late late, whole->LateSteps());
  times.whole[kRowsMax] = late.first;
  times.late_chunk = late.chunk;
  times.late_decode = late.decode;
  return times;
}

// The rates under which the cost model gives these times.
ProcessorRates Calibrator::RatesFrom(const Times& times, int threads) const {
  constexpr double kLeast = 1e-15;  // noise must not make a rate negative
  const ModelConfig& model = checkpoint_.config();
  const int shards = std::min(kShards, model.n_heads);
  const ShardElements whole = ElementsOf(model, ShardOf(model, {.tp = 1}, 0));
  const ShardElements part = ElementsOf(model, ShardOf(model, {.tp = shards}, 0));
  const double layers = model.n_layers(), d = model.d_model;
  const double weights = layers * (whole.attention + whole.mlp);
  const double less = weights - layers * (part.attention + part.mlp);
  const auto fixed = [&](int rows) {  // of a sub-block, whatever the shard
    const double per_weight = (times.whole.at(rows) - times.part.at(rows)) / less;
    return std::max(kLeast, (times.whole.at(rows) - weights * per_weight) / (2 * layers));
  };

  ProcessorRates r;
  r.block_s = fixed(1);
  r.row_element_s = std::max(0.0, (fixed(kChunk) - fixed(1)) * threads / ((kChunk - 1) * d));
  r.step_s = 0.0;       // part of block_s: both are there whatever the shard
  double seeing = 0.0;  // layers, a window counting for the part of kContext that it sees
  for (const LayerConfig& layer : model.layers) {
    seeing += layer.window == 0 ? 1.0 : std::min(1.0, layer.window / static_cast<double>(kContext));
  }
  const double macs = 2.0 * model.n_heads * model.head_dim * seeing;  // of one visible position
  const double read = 2.0 * model.n_kv_heads * model.head_dim * 2 * seeing;
  const double late_row = std::max(1e-6, times.late_decode - times.whole.at(1));
  r.kv_bytes_s = read * kContext / late_row / threads;
  const double late_rows = std::max(1e-6, times.late_chunk - times.whole.at(kChunk));
  r.attention_macs_s = macs * kContext * kChunk / late_rows / threads;

  std::vector<MatMulCurve::Point> curve;
  for (const auto& [rows, seconds] : times.whole) {
    const double pairs = (rows + 1) / 2.0 * rows;
    const double others = 2 * layers * (r.block_s + rows * d * r.row_element_s / threads) +
                          macs * pairs / r.attention_macs_s / threads;
    curve.push_back(
        {static_cast<double>(rows), std::max(kLeast, (seconds - others) * threads / weights)});
  }
  r.layers = MatMulCurve(curve);
  const double one = std::max(1e-6, times.sampled_one - times.whole.at(1));
  const double batch = std::max(one, times.sampled_batch - times.whole.at(kBatch));
  r.head = MatMulCurve({{1.0, one * threads / whole.head}, {kBatch, batch * threads / whole.head}});
  return r;
}

// All-reduces of two threads: a decode row's, a chunk's, and that one behind as much computing.
Calibrator::LinkTimes Calibrator::MeasureLink() const {
  constexpr int kRepeats = 40;
  const int64_t d_model = checkpoint_.config().d_model;
  auto ranks = MakeLocalCommunicators(2);
  LinkTimes link;
  const SystemClock clock;
  const auto run = [&](int rank) {
    std::vector<float> data(d_model * kChunk);
    Communicator& comm = *ranks[rank];
    const auto timed = [&](int64_t count, double compute) {
      std::vector<double> times;
      for (int i = 0; i < kRepeats; ++i) {
        const int64_t begin = clock.NowUs();
        const CommHandle handle = comm.AllReduceSum(data.data(), count);
        while (static_cast<double>(clock.NowUs() - begin) * 1e-6 < compute) {
        }
        comm.Wait(handle);
        times.push_back(static_cast<double>(clock.NowUs() - begin) * 1e-6);
      }
      std::sort(times.begin(), times.end());
      return times[times.size() / 2];
    };
    const double small = timed(d_model, 0.0), large = timed(d_model * kChunk, 0.0);
    const double overlapped = timed(d_model * kChunk, large);
    if (rank == 0) link = {small, large, overlapped};
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  return link;
}

Status Calibrator::Measure() {
  const ModelConfig& model = checkpoint_.config();
  if (model.context_max < kPositions) {
    return InvalidArgument(StrCat("calibration runs steps of up to ", kPositions,
                                  " positions, the model's context has ", model.context_max,
                                  ": measure a model of the same size with a longer one"));
  }
  if (model.n_heads < 2) {
    return InvalidArgument(
        "calibration compares a whole rank with one of several, which a model with one attention "
        "head cannot have: measure a model with two or more");
  }
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  backend_.threads = cores;
  ASSIGN_OR_RETURN(const auto backend, MakeBackend(backend_));
  if (!backend->host_memory()) {
    return Unsupported(StrCat("backend \"", backend->name(),
                              "\": calibration measures a host's cores and memory, no devices: "
                              "measure with --backend cpu, or write a device's rates into the "
                              "hosts file (docs/parallelism.md)"));
  }
  described_ = backend->Describe();
  ASSIGN_OR_RETURN(const Times all, MeasureRank(cores));
  all_.KeepLeast(all);
  if (cores > 1) {
    // A second rank works beside the measured one, as it will.
    Result<Times> other = InternalError("not measured");
    std::thread neighbour([&] { other = MeasureRank(1); });
    const Result<Times> one = MeasureRank(1);
    neighbour.join();
    if (!one.ok()) return one.error();
    one_.KeepLeast(*one);
  } else {
    one_.KeepLeast(all);
  }
  link_.KeepLeast(MeasureLink());
  free_bytes_ = backend->FreeMemoryBytes();
  return {};
}

Calibration Calibrator::Rates() const {
  Calibration out;
  out.backend = described_;
  out.host.name = HostName();
  out.host.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  out.host.memory_bytes = free_bytes_;
  out.host.all = RatesFrom(all_, out.host.cores);
  out.host.one = RatesFrom(one_, 1);
  // L e + B / W of both messages, e times exchanged.
  const int64_t small = checkpoint_.config().d_model * int64_t{sizeof(float)};
  const auto exchanges = [](int64_t bytes) {
    return ShareOf(1, 2, bytes) == SumShare::kEach ? 1.0 : 2.0;
  };
  const double times = exchanges(small * kChunk) / exchanges(small);
  Link& link = out.inside;
  link.bytes_s = static_cast<double>(small) * (kChunk - times) /
                 std::max(1e-9, link_.large - link_.small * times);
  link.latency_s =
      std::max(1e-7, (link_.small - static_cast<double>(small) / link.bytes_s) / exchanges(small));
  link.hidden = std::clamp((2 * link_.large - link_.overlapped) / link_.large, 0.0, 1.0);
  return out;
}

}  // namespace echelon
