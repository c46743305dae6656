// The rehearsal on clocks of the test: every op advances its rank's clock by what it would take,
// every all-reduce by what is left of it when it is waited for.

#include "worker/split_rehearsal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <mutex>
#include <optional>
#include <thread>

#include "kernels/timed_backend.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/slow_link.h"
#include "worker/comm/local_comm.h"
#include "worker/executor.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::SlowLinkOptions;

constexpr int kPageTokens = 16, kLayers = 4, kWidth = 64, kRanks = 2;
constexpr int64_t kOpUs = 4;   // of an op, however many rows
constexpr int64_t kRowUs = 2;  // of a row of an op
// An all-reduce of a row takes as long as the row's ops of a sub-block: 4 or 5 of 2 us.
constexpr double kSlowUsPerByte = 9.0 / (kWidth * sizeof(float));

class TakesTime final : public OpObserver {
 public:
  TakesTime(ManualClock& clock, int64_t slower) : clock_(clock), slower_(slower) {}
  void OnOp(const OpTime& op) override { clock_.AdvanceUs(slower_ * (kOpUs + kRowUs * op.rows)); }

 private:
  ManualClock& clock_;
  const int64_t slower_;
};

struct Rank {
  SlowLinkOptions link;
  int64_t slower = 1;                                   // than kOpUs and kRowUs say
  std::optional<SlowLinkOptions> later = std::nullopt;  // the link after the rehearsal
};

struct Seen {
  std::string said;        // what was measured
  int prompt_reduces = 0;  // of the last step
};

class SplitRehearsalTest : public ::testing::Test {
 protected:
  SplitRehearsalTest() {
    TinyModel tiny;
    tiny.n_layers = kLayers;
    tiny.d_model = kWidth;
    checkpoint_ = TinyDummy(tiny, folder_.path());
  }

  // The ranks' executors are made, and prompts of so many rows are run, one a step.
  std::array<Seen, kRanks> Run(const std::array<Rank, kRanks>& ranks, int rows, int steps = 1) {
    std::array<Seen, kRanks> seen;
    auto endpoints = MakeLocalCommunicators(kRanks);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < kRanks; ++rank) {
      threads.emplace_back([&, rank] {
        seen[rank] = RunRank(rank, ranks[rank], rows, steps, std::move(endpoints[rank]));
      });
    }
    for (std::thread& thread : threads) thread.join();
    return seen;
  }

  int step_tokens_max_ = 128;

 private:
  Seen RunRank(int rank, const Rank& how, int rows, int steps,
               std::unique_ptr<Communicator> endpoint) {
    ManualClock clock;
    TakesTime observer(clock, how.slower);
    int reduces = 0;
    SlowLinkOptions link = how.link;
    testing::SlowLink world(std::move(endpoint), link, clock, reduces);
    ExecutorOptions options;
    options.layout.tp = kRanks;
    options.rank = rank;
    options.kv_memory_bytes = 1 << 20;
    options.page_tokens = kPageTokens;
    options.step_tokens_max = step_tokens_max_;
    options.token_split = TokenSplitMode::kAuto;
    const ModelConfig& model = checkpoint_->config();
    const auto backend = MakeTimedBackend(MakeBackend({"reference", 1, "auto"}).value(), observer);
    std::unique_lock lock(loading_);
    Weights weights = LoadWeights(*checkpoint_, model, PartOf(model, options.layout, rank),
                                  uint64_t{1} << 40, *backend)
                          .value();
    lock.unlock();
    const auto executor =
        Executor::Create(model, options, std::move(weights), *backend, world, clock).value();
    link = how.later.value_or(link);
    for (int step = 0; step < steps; ++step) {
      reduces = 0;
      EXPECT_TRUE(executor->Run(Prompt(rows, step)).ok());
    }
    return {executor->DescribeTokenSplit(), reduces};
  }

  // In the place of the step's before.
  static StepPlan Prompt(int rows, int step) {
    StepPlan plan;
    if (step > 0) plan.released = {static_cast<SequenceId>(step)};
    plan.sequences.resize(1);
    SequenceStep& s = plan.sequences[0];
    s.id = step + 1;
    s.first = true;
    s.tokens.assign(rows, 5);
    s.prompt_tokens = rows;
    for (int page = 0; page * kPageTokens < rows; ++page) s.new_pages.push_back(page);
    return plan;
  }

  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::mutex loading_;
};

// The embedding's, and two a layer.
constexpr int kWhole = 1 + 2 * kLayers, kInTwoParts = 2 * kWhole;
constexpr Rank kFast = {}, kSlow = {.link = {.us_per_byte = kSlowUsPerByte}};

TEST_F(SplitRehearsalTest, SplitsWhereTheLinkIsSlow) {
  for (const Seen& seen : Run({kSlow, kSlow}, 64)) {
    EXPECT_EQ(seen.prompt_reduces, kInTwoParts) << seen.said;
  }
}

// Ops cost kOpUs twice, and there is nothing to hide.
TEST_F(SplitRehearsalTest, StaysWholeWhereTheLinkIsFast) {
  for (const Seen& seen : Run({kFast, kFast}, 64)) {
    EXPECT_THAT(seen.said, HasSubstr("128 rows"));
    EXPECT_EQ(seen.prompt_reduces, kWhole) << seen.said;
  }
}

// Two rows of 9 us each against 9 ops of 4: what is hidden is less than the ops cost again.
TEST_F(SplitRehearsalTest, FewRowsStayWholeOverTheSameLink) {
  for (const Seen& seen : Run({kSlow, kSlow}, 2)) {
    EXPECT_EQ(seen.prompt_reduces, kWhole) << seen.said;
  }
}

// One rank alone would split, the other not: the slowest times count on both.
TEST_F(SplitRehearsalTest, RanksThatSeeDifferentTimesDecideAlike) {
  constexpr Rank kSlowComputer = {.slower = 20};
  for (const auto& ranks : {std::array{kFast, kSlow}, std::array{kSlow, kSlowComputer}}) {
    const auto seen = Run(ranks, 64);
    EXPECT_EQ(seen[0].said, seen[1].said);
    EXPECT_EQ(seen[0].prompt_reduces, seen[1].prompt_reduces);
  }
  EXPECT_EQ(Run({kFast, kSlow}, 64)[0].prompt_reduces, kInTwoParts);
  EXPECT_EQ(Run({kSlow, kSlowComputer}, 64)[0].prompt_reduces, kWhole);
}

// The trials are the ninth, and from the first that contradicts on every third: after three more
// the median says otherwise.
TEST_F(SplitRehearsalTest, StepsCorrectTheRehearsalOnAllRanksAlike) {
  Rank fast_later = kSlow, slow_later = kFast;
  fast_later.later = SlowLinkOptions{};
  slow_later.later = kSlow.link;
  for (const Seen& seen : Run({fast_later, fast_later}, 32, 50)) {
    EXPECT_EQ(seen.prompt_reduces, kWhole) << seen.said;
  }
  for (const Seen& seen : Run({slow_later, kFast}, 32, 50)) {
    EXPECT_EQ(seen.prompt_reduces, kInTwoParts) << seen.said;
  }
}

TEST_F(SplitRehearsalTest, RanksOfOneHostRehearseNothing) {
  Rank near = kSlow;
  near.link.hosts = 1;
  for (const Seen& seen : Run({near, near}, 64)) {
    EXPECT_EQ(seen.said, "");
    EXPECT_EQ(seen.prompt_reduces, kWhole);
  }
}

// A latency of 10 ms is 20 ms a layer either way, and 40 ms a pair: with more rows, more of the
// start's time.
TEST_F(SplitRehearsalTest, EndsWhereALayerTakesLong) {
  const Rank far = {.link = {.latency_us = 10'000}};
  const std::string said = Run({far, far}, 64)[0].said;
  EXPECT_THAT(said, HasSubstr("8 rows"));
  EXPECT_THAT(said, Not(HasSubstr("128 rows")));
}

TEST_F(SplitRehearsalTest, RehearsesNoMoreRowsThanAStepHas) {
  step_tokens_max_ = 64;
  const std::string said = Run({kFast, kFast}, 64)[0].said;
  EXPECT_THAT(said, HasSubstr("32 rows"));
  EXPECT_THAT(said, Not(HasSubstr("128 rows")));
}

}  // namespace
}  // namespace echelon
