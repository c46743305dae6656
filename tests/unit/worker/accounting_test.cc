// Megatron's accounting: every collective, message and byte that a step sends, counted per axis and
// held against formulas, for every schedule and product of tp, pp and sp, so that nobody adds one
// unnoticed.
//
//   tp    embedding: 1 all-reduce; attention and MLP: 1 each (parallel: 1 for both; desync: those
//         that the pattern keeps, and the model's last); rows x d_model x 4 bytes each.
//         A step in two parts: twice as many, of as many bytes in all.
//         The head: 1 all-gather of each part's best token, 16 bytes a drawn token.
//   pp    residual and pending outputs to the next stage, one message each, rows x d_model x 4
//         bytes; drawn tokens back to the first stage, 4 bytes each.
//   sp    per layer: keys and values pages round the ring, sp - 1 messages; or queries to each
//         other rank and partials back; or, of rows that all ranks have, 1 all-gather of partials.
//         The drawn rows to all ranks of the last stage.
//   world 1 message of timings from each rank but the one that reports.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "common/run_setup.h"
#include "tests/support/model_builder.h"
#include "worker/comm/local_comm.h"
#include "worker/executor.h"
#include "worker/page_parts.h"

namespace echelon {
namespace {

struct Tally {
  int operations = 0;
  int64_t bytes = 0;
  bool operator==(const Tally&) const = default;
};
void PrintTo(const Tally& t, std::ostream* out) { *out << t.operations << " x, " << t.bytes; }

using Ledger = std::map<std::string, Tally>;  // "group operation"

void Enter(Ledger& ledger, const std::string& what, int operations, int64_t bytes) {
  if (operations == 0) return;
  ledger[what].operations += operations;
  ledger[what].bytes += bytes;
}

// Counts and hands on; the groups split off count into the same ledger, each under its name. A
// group of one sends nothing.
class CountingCommunicator final : public Communicator {
 public:
  CountingCommunicator(std::unique_ptr<Communicator> inner, std::string name, Ledger* ledger)
      : inner_(std::move(inner)), name_(std::move(name)), ledger_(ledger) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  CommHandle AllReduceSum(float* data, int64_t count) override {
    Count("all-reduce", count * int64_t{sizeof(float)});
    return inner_->AllReduceSum(data, count);
  }
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) override {
    Count("all-reduce", rows * cols * int64_t{sizeof(float)});
    return inner_->AllReduceRows(data, rows, cols);
  }
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    Count("all-gather", bytes);
    return inner_->AllGather(send, recv, bytes);
  }
  CommHandle Broadcast(void* data, size_t bytes, int root) override {
    Count("broadcast", bytes);
    return inner_->Broadcast(data, bytes, root);
  }
  CommHandle Send(const void* data, size_t bytes, int to) override {
    Count("send", bytes);
    return inner_->Send(data, bytes, to);
  }
  CommHandle Recv(void* data, size_t bytes, int from) override {
    Count("receive", bytes);
    return inner_->Recv(data, bytes, from);
  }
  void Wait(CommHandle handle) override { inner_->Wait(handle); }
  SumRows NextRows(CommHandle handle) override { return inner_->NextRows(handle); }
  void Poll() override { inner_->Poll(); }
  bool MoveOn() override { return inner_->MoveOn(); }
  // The groups of an executor, in the order it makes them.
  std::unique_ptr<Communicator> Split(int color, int key) override {
    static constexpr const char* kGroups[] = {"tp",     "head",    "pp 0", "pp 1",
                                              "tokens", "timings", "sp",   "ring"};
    return std::make_unique<CountingCommunicator>(inner_->Split(color, key), kGroups[splits_++],
                                                  ledger_);
  }
  CommStats TakeStats() override { return inner_->TakeStats(); }

 private:
  void Count(const char* operation, size_t bytes) {
    if (size() > 1) Enter(*ledger_, name_ + " " + operation, 1, static_cast<int64_t>(bytes));
  }
  std::unique_ptr<Communicator> inner_;
  const std::string name_;
  Ledger* ledger_;
  int splits_ = 0;
};

constexpr int kWidth = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 16, kPageTokens = 4;
constexpr int64_t kFloat = sizeof(float);

TinyModel Tiny() {
  TinyModel tiny;
  tiny.d_model = kWidth;
  tiny.n_layers = 4;
  tiny.n_heads = kHeads;
  tiny.n_kv_heads = kKvHeads;
  tiny.head_dim = kHeadDim;
  return tiny;
}

// One sequence: a prompt of 8 pages that passes keys, a page that passes queries, a decode.
struct Chunk {
  int begin, rows;
  bool sample;
};
constexpr Chunk kChunks[] = {{0, 32, false}, {32, 4, true}, {36, 1, true}};
constexpr int kSteps = std::size(kChunks), kPassesKeys = 0, kPassesQueries = 1, kDecode = 2;

StepPlan PlanOf(int step, const ParallelLayout& layout, int pages_per_rank) {
  const Chunk chunk = kChunks[step];
  SequenceStep s;
  s.id = 1;
  s.start_position = chunk.begin;
  s.tokens.assign(chunk.rows, step == kDecode ? kTokenFromLastStep : 5);
  for (int page = (chunk.begin + kPageTokens - 1) / kPageTokens;
       page * kPageTokens < chunk.begin + chunk.rows; ++page) {
    s.new_pages.push_back(page % layout.sp * pages_per_rank + page / layout.sp);
  }
  s.first = step == 0;
  s.prompt_tokens = s.first ? 36 : 0;
  s.sample = chunk.sample;
  s.params.temperature = 0.0f;
  StepPlan plan;
  plan.step_id = step;
  plan.sequences = {s};
  return plan;
}

// [step][rank]
std::vector<std::vector<Ledger>> Measure(const ParallelLayout& layout,
                                         const ModelSettings& schedule, TokenSplitMode split) {
  ScratchFolder folder;
  const auto checkpoint = TinyDummy(Tiny(), folder.path());
  const ModelConfig model = ModelFrom(checkpoint->config(), schedule).value().model;
  const int ranks = layout.world();
  std::vector<std::vector<Ledger>> counted(kSteps, std::vector<Ledger>(ranks));
  auto endpoints = MakeLocalCommunicators(ranks);
  std::mutex loading;
  const SystemClock clock;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Ledger ledger;
      CountingCommunicator world(std::move(endpoints[rank]), "world", &ledger);
      ExecutorOptions options;
      options.layout = layout;
      options.rank = rank;
      options.kv_memory_bytes = 1 << 20;
      options.kv_type = KvType::kF32;
      options.page_tokens = kPageTokens;
      options.token_split = split;
      const auto backend = MakeBackend({"reference", 1, "auto"}).value();
      std::unique_lock lock(loading);
      Weights weights =
          LoadWeights(*checkpoint, model, PartOf(model, layout, rank), uint64_t{1} << 40, *backend)
              .value();
      lock.unlock();
      const auto executor =
          Executor::Create(model, options, std::move(weights), *backend, world, clock).value();
      for (int step = 0; step < kSteps; ++step) {
        ledger.clear();
        const auto result = executor->Run(PlanOf(step, layout, executor->pages() / layout.sp));
        ASSERT_TRUE(result.ok()) << result.error().message;
        EXPECT_EQ(result->has_value(), rank == ResultRank(layout));
        counted[step][rank] = ledger;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return counted;
}

// A schedule and what its formulas need.
struct Case {
  const char* name;
  ModelSettings schedule;
  // Of layer l.
  std::function<int(int)> reduces;
  std::function<bool(int)> ladder = [](int) { return false; };
};

ModelSettings Schedule(const char* name, const char* layers = "", const char* pattern = "") {
  ModelSettings settings;
  settings.schedule = name;
  settings.ladder_layers = layers;
  settings.desync_pattern = pattern;
  return settings;
}

std::vector<Case> Cases() {
  const auto two = [](int) { return 2; };
  const auto one = [](int) { return 1; };
  const auto last_only = [](int l) { return l == 3 ? 1 : 0; };
  const auto attention_and_last = [](int l) { return l == 3 ? 2 : 1; };
  const auto all = [](int) { return true; };
  const auto odd = [](int l) { return l % 2 == 1; };
  return {{"standard", Schedule("standard"), two},
          {"ladder", Schedule("ladder"), two, all},
          {"partial ladder", Schedule("ladder", "1,3"), two, odd},
          {"parallel", Schedule("parallel"), one},
          {"desync, attention kept", Schedule("desync", "", "10"), attention_and_last},
          {"desync, nothing kept", Schedule("desync", "", "00"), last_only}};
}

// What one rank sends and receives in a step, by the formulas.
class Formulas {
 public:
  Formulas(const Case& c, const ParallelLayout& layout, const ModelConfig& model, int rank,
           int step, TokenSplitMode split)
      : case_(c),
        layout_(layout),
        at_(layout.PositionOf(rank)),
        rank_(rank),
        step_(step),
        split_(split),
        chunk_(kChunks[step]),
        layers_(LayersOfStage(model, layout, at_.pp)),
        heads_(ShardOf(model, layout, at_.tp).heads.size()),
        kv_heads_(ShardOf(model, layout, at_.tp).kv_heads.size()) {}

  Ledger Expected() {
    Tensors();
    Stages();
    if (layout_.sp > 1) Sequences();
    const int result_rank = ResultRank(layout_), others = layout_.world() - 1;
    const int64_t timing = sizeof(RankTiming);
    if (rank_ != result_rank) {
      Enter(ledger_, "timings send", 1, timing);
    } else if (step_ > 0) {
      Enter(ledger_, "timings receive", others, others * timing);
    }
    return ledger_;
  }

 private:
  // Rows of the step that sp rank r computes: those of its pages; a lone decode all ranks.
  int64_t RowsOf(int r) const {
    if (step_ == kDecode) return 1;
    const PageParts parts{layout_.sp, kPageTokens};
    return parts.PlacesOf(r, {chunk_.begin, chunk_.begin + chunk_.rows}).size();
  }
  int64_t StreamBytes() const { return RowsOf(at_.sp) * kWidth * kFloat; }

  void Tensors() {
    if (layout_.tp == 1) return;
    int reduces = at_.pp == 0 ? 1 : 0;  // the embedding
    for (int64_t l = layers_.begin; l < layers_.end; ++l) {
      reduces += case_.reduces(static_cast<int>(l));
    }
    const int parts = split_ == TokenSplitMode::kOn && chunk_.rows >= 2 ? 2 : 1;
    Enter(ledger_, "tp all-reduce", parts * reduces, reduces * StreamBytes());
    if (chunk_.sample && Last()) Enter(ledger_, "head all-gather", 1, 16);
  }

  void Stages() {
    if (layout_.pp == 1) return;
    const std::string links[] = {"pp 0", "pp 1"};
    if (!Last()) {
      const int messages = case_.ladder(static_cast<int>(layers_.end)) ? 2 : 1;
      Enter(ledger_, links[at_.pp % 2] + " send", messages, messages * StreamBytes());
    }
    if (at_.pp > 0) {
      const int messages = case_.ladder(static_cast<int>(layers_.begin)) ? 2 : 1;
      Enter(ledger_, links[(at_.pp - 1) % 2] + " receive", messages, messages * StreamBytes());
    }
    if (chunk_.sample && Last()) Enter(ledger_, "tokens send", 1, 4);
    if (step_ == kDecode && at_.pp == 0) Enter(ledger_, "tokens receive", 1, 4);
  }

  void Sequences() {
    const int others = layout_.sp - 1, layers = static_cast<int>(layers_.size());
    const int64_t query = heads_ * kHeadDim * kFloat, partial = heads_ * (kHeadDim + 2) * kFloat;
    if (step_ == kPassesKeys) {
      // 2 T (sp - 1) / sp x KV heads x head_dim x 4 bytes.
      const int64_t bytes = 2 * int64_t{chunk_.rows} * others / layout_.sp * kv_heads_ * kHeadDim;
      Enter(ledger_, "ring send", layers * others, layers * bytes * kFloat);
      Enter(ledger_, "ring receive", layers * others, layers * bytes * kFloat);
    } else if (step_ == kPassesQueries) {
      const bool owner = RowsOf(at_.sp) > 0;  // of the one page: queries out, partials back
      const int peers = layers * (owner ? others : 1);
      Enter(ledger_, "sp send", peers, peers * chunk_.rows * (owner ? query : partial));
      Enter(ledger_, "sp receive", peers, peers * chunk_.rows * (owner ? partial : query));
      if (Last()) Enter(ledger_, owner ? "sp send" : "sp receive", owner ? others : 1, DrawnRow());
    } else {
      Enter(ledger_, "sp all-gather", layers, layers * partial);
    }
  }
  // To each other rank, or from the one that has it.
  int64_t DrawnRow() const {
    return (RowsOf(at_.sp) > 0 ? layout_.sp - 1 : 1) * int64_t{kWidth} * kFloat;
  }
  bool Last() const { return at_.pp == layout_.pp - 1; }

  const Case& case_;
  const ParallelLayout& layout_;
  const RankPosition at_;
  const int rank_, step_;
  const TokenSplitMode split_;
  const Chunk chunk_;
  const Range layers_;
  const int64_t heads_, kv_heads_;
  Ledger ledger_;
};

// tp, pp, sp.
using Degrees = std::array<int, 3>;
constexpr Degrees kProducts[] = {{1, 1, 1}, {2, 1, 1}, {3, 1, 1}, {1, 2, 1}, {1, 4, 1}, {1, 1, 2},
                                 {1, 1, 4}, {2, 2, 1}, {2, 1, 2}, {1, 3, 2}, {2, 2, 2}};

void ExpectFormulas(const Case& c, const Degrees& degrees, TokenSplitMode split) {
  ScratchFolder folder;
  const auto checkpoint = TinyDummy(Tiny(), folder.path());
  const ModelConfig model = ModelFrom(checkpoint->config(), c.schedule).value().model;
  ParallelLayout layout;
  layout.tp = degrees[0];
  layout.pp = degrees[1];
  layout.sp = degrees[2];
  const auto counted = Measure(layout, c.schedule, split);
  for (int step = 0; step < kSteps; ++step) {
    for (int rank = 0; rank < layout.world(); ++rank) {
      EXPECT_EQ(counted[step][rank], Formulas(c, layout, model, rank, step, split).Expected())
          << c.name << ", tp " << layout.tp << " x pp " << layout.pp << " x sp " << layout.sp
          << ", rank " << rank << ", step " << step;
    }
  }
}

TEST(Accounting, EveryMessageOfAStepIsInTheFormulas) {
  for (const Case& c : Cases()) {
    for (const Degrees& degrees : kProducts) ExpectFormulas(c, degrees, TokenSplitMode::kOff);
  }
}

// Twice the all-reduces of half the rows each; nothing else is sent more often.
TEST(Accounting, AStepInTwoPartsSendsTheSameBytesInTwiceTheAllReduces) {
  for (const Case& c : Cases()) {
    for (const Degrees& degrees : kProducts) {
      if (degrees[2] == 1) ExpectFormulas(c, degrees, TokenSplitMode::kOn);
    }
  }
}

}  // namespace
}  // namespace echelon
