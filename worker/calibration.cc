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
#include "common/planner/step_cost.h"
#include "common/rank_part.h"
#include "worker/comm/local_comm.h"
#include "worker/executor.h"

namespace echelon {

namespace {

// Rows of a step at which matrix products are measured; the last is the default step_tokens_max.
constexpr int kRows[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};
constexpr int kRowsMax = 512;
constexpr int kContext = 1024;  // where attention is measured
constexpr int kChunk = 64;      // rows of its prefill steps
constexpr int kShards = 4;      // the part of a rank is measured of a group of so many
constexpr int kBatch = 16;      // sequences of the sampling measurement

// A group of which only this rank is there: every operation is complete at once, what should have
// come is whatever the buffers hold. For timing steps whose numbers nobody reads.
class SoloCommunicator : public Communicator {
 public:
  SoloCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  CommHandle AllReduceSum(float*, int64_t) override { return {}; }
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    // Everyone agrees with us.
    for (int r = 0; r < size_; ++r) {
      std::copy_n(static_cast<const char*>(send), bytes, static_cast<char*>(recv) + r * bytes);
    }
    return {};
  }
  CommHandle Broadcast(void*, size_t, int) override { return {}; }
  CommHandle Send(const void*, size_t, int) override { return {}; }
  CommHandle Recv(void*, size_t, int) override { return {}; }
  void Wait(CommHandle) override {}
  void Poll() override {}
  std::unique_ptr<Communicator> Split(int, int) override {
    return std::make_unique<SoloCommunicator>(rank_, size_);
  }
  CommStats TakeStats() override { return {}; }

 private:
  const int rank_, size_;
};

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
    executor.context_max = kContext + kRowsMax;
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
    const int repeats = sequences * rows > kChunk ? 2 : 6;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      StepPlan plan = NewPlan();
      for (int s = 0; s < sequences; ++s) plan.sequences.push_back(Begin(rows, sample));
      ASSIGN_OR_RETURN(const double time, Run(plan));
      least = std::min(least, time);
    }
    return least;
  }

  // Seconds of a decode step without sampling, and of kChunk rows, with about kContext positions
  // before.
  struct Late {
    double decode = 0.0, chunk = 0.0;
  };
  Result<Late> LateSteps() {
    Late late{std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
    StepPlan plan = NewPlan();
    plan.sequences.push_back(Begin(kRowsMax, false));
    const SequenceId id = plan.sequences[0].id;
    RETURN_IF_ERROR(Run(plan));
    int at = kRowsMax;
    for (const int rows : {kContext - kRowsMax, kChunk, kChunk, kChunk, 1, 1, 1, 1, 1, 1, 1, 1}) {
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

// Everything measured of one kind of rank.
struct Times {
  std::map<int, double> whole, part;              // by rows: of a rank alone, of one of kShards
  double sampled_one = 0.0, sampled_batch = 0.0;  // with one token each
  SoloRank::Late late;
};

Result<Times> Measure(const Checkpoint& checkpoint, const BackendOptions& options, int threads) {
  Times times;
  const int shards = std::min(kShards, checkpoint.config().n_heads);
  {
    ASSIGN_OR_RETURN(auto part, SoloRank::Start(checkpoint, options, threads, shards));
    for (const int rows : {1, kChunk}) {
      ASSIGN_OR_RETURN(times.part[rows], part->FreshStep(1, rows, false));
    }
  }
  ASSIGN_OR_RETURN(auto whole, SoloRank::Start(checkpoint, options, threads, 1));
  for (const int rows : kRows) {
    ASSIGN_OR_RETURN(times.whole[rows], whole->FreshStep(1, rows, false));
  }
  ASSIGN_OR_RETURN(times.sampled_one, whole->FreshStep(1, 1, true));
  ASSIGN_OR_RETURN(times.sampled_batch, whole->FreshStep(kBatch, 1, true));
  ASSIGN_OR_RETURN(times.late, whole->LateSteps());
  return times;
}

// The rates under which the cost model gives these times.
ProcessorRates RatesFrom(const ModelConfig& model, const Times& times, int threads) {
  constexpr double kLeast = 1e-15;  // noise must not make a rate negative
  const int shards = std::min(kShards, model.n_heads);
  const ShardElements whole = ElementsOf(model, ShardOf(model, 1, 0));
  const ShardElements part = ElementsOf(model, ShardOf(model, shards, 0));
  const double layers = model.n_layers(), d = model.d_model;
  const double weights = layers * (whole.attention + whole.mlp);
  const double less = weights - layers * (part.attention + part.mlp);
  const auto per_weight = [&](int rows) {  // core-seconds
    return std::max(kLeast, (times.whole.at(rows) - times.part.at(rows)) * threads / less);
  };
  const auto fixed = [&](int rows) {  // of a sub-block
    const double rest = times.whole.at(rows) - weights * per_weight(rows) / threads;
    return std::max(kLeast, rest / (2 * layers));
  };

  ProcessorRates r;
  r.block_s = fixed(1);
  r.row_element_s = std::max(0.0, (fixed(kChunk) - fixed(1)) * threads / ((kChunk - 1) * d));
  double seeing = 0.0;  // layers, a window counting for the part of kContext that it sees
  for (const LayerConfig& layer : model.layers) {
    seeing += layer.window == 0 ? 1.0 : std::min(1.0, layer.window / static_cast<double>(kContext));
  }
  const double macs = 2.0 * model.n_heads * model.head_dim * seeing;  // of one visible position
  const double read = 2.0 * model.n_kv_heads * model.head_dim * 2 * seeing;
  const double late_row = std::max(kLeast, times.late.decode - times.whole.at(1));
  r.kv_bytes_s = read * kContext / late_row / threads;
  const double late_pairs = static_cast<double>(kContext) * kChunk;
  const double late_rows = std::max(kLeast, times.late.chunk - times.whole.at(kChunk));
  r.attention_macs_s = macs * late_pairs / late_rows / threads;

  std::vector<MatMulCurve::Point> curve;
  for (const int rows : kRows) {
    const double pairs = (rows + 1) / 2.0 * rows;
    const double others = 2 * layers * (r.block_s + rows * d * r.row_element_s / threads) +
                          macs * pairs / r.attention_macs_s / threads;
    const double seconds = (times.whole.at(rows) - others) * threads / weights;
    curve.push_back({static_cast<double>(rows), std::max(kLeast, seconds)});
  }
  r.layers = MatMulCurve(curve);
  const double one = std::max(kLeast, times.sampled_one - times.whole.at(1));
  const double batch = std::max(one, times.sampled_batch - times.whole.at(kBatch));
  r.head = MatMulCurve({{1.0, one * threads / whole.head}, {kBatch, batch * threads / whole.head}});
  r.step_s = 0.0;  // part of block_s: both are there whatever the shard
  return r;
}

// All-reduces of two threads: a decode row's, a chunk's, and one behind as much computing.
Link MeasureLink(int64_t d_model) {
  constexpr int kRepeats = 50;
  auto ranks = MakeLocalCommunicators(2);
  const int64_t sizes[] = {d_model, d_model * kChunk};
  double seconds[2] = {}, overlapped = 0.0;
  const SystemClock clock;
  const auto run = [&](int rank) {
    std::vector<float> data(sizes[1]);
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
    const double small = timed(sizes[0], 0.0), large = timed(sizes[1], 0.0);
    const double behind = timed(sizes[1], large);
    if (rank == 0) seconds[0] = small, seconds[1] = large, overlapped = behind;
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  Link link;
  const double bytes = static_cast<double>(sizes[1] - sizes[0]) * sizeof(float);
  link.bytes_s = bytes / std::max(1e-9, seconds[1] - seconds[0]);
  link.latency_s = std::max(1e-7, seconds[0] - static_cast<double>(sizes[0]) * 4 / link.bytes_s);
  link.hidden = std::clamp((2 * seconds[1] - overlapped) / seconds[1], 0.0, 1.0);
  return link;
}

}  // namespace

Result<Calibration> Calibrate(const Checkpoint& checkpoint, const BackendOptions& backend) {
  const ModelConfig& model = checkpoint.config();
  Calibration out;
  out.host.name = HostName();
  out.host.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  ASSIGN_OR_RETURN(const Times all, Measure(checkpoint, backend, out.host.cores));
  out.host.all = out.host.one = RatesFrom(model, all, out.host.cores);
  if (out.host.cores > 1) {
    // A second rank works beside the measured one, as it will.
    Result<Times> other = InternalError("not measured");
    std::thread neighbour([&] { other = Measure(checkpoint, backend, 1); });
    const Result<Times> one = Measure(checkpoint, backend, 1);
    neighbour.join();
    if (!one.ok()) return one.error();
    out.host.one = RatesFrom(model, *one, 1);
  }
  ASSIGN_OR_RETURN(const auto memory, MakeBackend(backend));
  out.host.memory_bytes = memory->FreeMemoryBytes();
  out.inside = MeasureLink(model.d_model);
  return out;
}

}  // namespace echelon
