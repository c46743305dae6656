// Plans ahead on the ranks of a tensor-parallel group: each enqueues the next step before it waits
// for the last one's tokens, whatever the others have ended; all enqueue the same; and a rank's
// error is its step's own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/cuda/ahead_rank.h"
#include "tests/cuda/stream_ranks.h"
#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

using testing::AheadRank;
using testing::Decode;
using ::testing::HasSubstr;
using testing::Plan;
using testing::Prompt;

constexpr int kTokens = 7;
const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5};

class CudaAheadRanks : public ::testing::TestWithParam<int> {
 protected:
  CudaAheadRanks() {
    EachRank([&](int rank) {
      ranks_[rank] =
          testing::MakeAheadRank(*checkpoint_, *world_[rank], testing::OverNccl(fabric_), clock_);
    });
  }
  ~CudaAheadRanks() override {
    EachRank([&](int rank) {
      ranks_[rank].executor.reset();
      ranks_[rank].backend.reset();
    });
  }
  void EachRank(const std::function<void(int rank)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < GetParam(); ++rank) threads.emplace_back(body, rank);
    for (std::thread& thread : threads) thread.join();
  }
  // Step `i` of a sequence that draws a token in each; the first takes the place of the sequence
  // before.
  static StepPlan Step(SequenceId id, int i, const SamplingParams& params) {
    const auto length = static_cast<int32_t>(kPrompt.size());
    std::vector<SequenceId> released;
    if (i == 0 && id > 1) released.push_back(id - 1);
    return Plan(kTokens * id + static_cast<uint64_t>(i),
                {i == 0 ? Prompt(id, kPrompt, params) : Decode(id, length + i - 1)}, released);
  }
  // Ends the oldest step; its token where the rank has the results.
  static void End(Executor& executor, std::vector<SampledToken>& got) {
    const auto result = executor.End();
    ASSERT_TRUE(result.ok()) << result.error().message;
    ASSERT_EQ(result->has_value(), executor.is_result_rank());
    if (*result) got.push_back((*result)->sequences.at(0).sampled.at(0));
  }
  // Each step ends before the next begins.
  std::vector<SampledToken> OneByOne(SequenceId id, const SamplingParams& params) {
    std::vector<SampledToken> got;
    EachRank([&](int rank) {
      for (int i = 0; i < kTokens; ++i) {
        ranks_[rank].executor->Begin(Step(id, i, params));
        End(*ranks_[rank].executor, got);
      }
    });
    return got;
  }
  // The next begins before the last ends, on ranks that `goes_ahead` says it of.
  std::vector<SampledToken> Ahead(SequenceId id, const SamplingParams& params,
                                  const std::function<bool(int rank)>& goes_ahead) {
    std::vector<SampledToken> got;
    EachRank([&](int rank) {
      Executor& executor = *ranks_[rank].executor;
      for (int i = 0; i < kTokens; ++i) {
        BeginUnawaited(ranks_[rank], Step(id, i, params), i);
        const size_t before = goes_ahead(rank) ? 1 : 0;
        if (static_cast<size_t>(executor.begun()) > before) End(executor, got);
      }
      while (executor.begun() > 0) End(executor, got);
    });
    return got;
  }
  // The step's ops are enqueued, and nothing is waited for. (The first of a kind may: memory
  // grows.)
  static void BeginUnawaited(AheadRank& rank, StepPlan plan, int i) {
    const cuda::WatchedRuntime& watched = *rank.watched;
    const int queried = watched.events_queried, awaited = watched.events_awaited;
    const int streams = watched.streams_awaited, launched = watched.graphs_launched;
    ASSERT_TRUE(rank.executor->TakesPlan());
    rank.executor->Begin(std::move(plan));
    EXPECT_EQ(watched.graphs_launched, launched + 2) << i;  // layers; head and draw
    if (i == 0) return;
    EXPECT_EQ(watched.events_queried, queried) << i;
    EXPECT_EQ(watched.events_awaited, awaited) << i;
    EXPECT_EQ(watched.streams_awaited, streams) << i;
  }
  // What NCCL takes in a graph is to be so on all ranks.
  void ExpectTheSameGraphs() const {
    for (const AheadRank& rank : ranks_) EXPECT_EQ(rank.watched->graphs, ranks_[0].watched->graphs);
  }

  const testing::EagerStreams eager_;
  testing::PlayedFabric fabric_;
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_ = TinyDummy({}, folder_.path());
  const SystemClock clock_;
  std::vector<std::unique_ptr<Communicator>> world_ = MakeLocalCommunicators(GetParam());
  std::vector<AheadRank> ranks_{static_cast<size_t>(GetParam())};
};

std::vector<SamplingParams> Kinds() {
  std::vector<SamplingParams> kinds(3);
  kinds[0] = testing::Greedy();
  kinds[0].presence_penalty = 2.0f;
  kinds[0].frequency_penalty = 1.0f;
  kinds[1].temperature = 1.2f;
  kinds[1].logprobs = 2;
  kinds[2].top_k = 30;
  kinds[2].top_p = 0.8f;
  kinds[2].repetition_penalty = 1.2f;
  kinds[2].logit_bias = {{7, 2.0f}};
  return kinds;
}

TEST_P(CudaAheadRanks, TheNextStepIsEnqueuedBeforeTheLastIsWaitedFor) {
  SequenceId id = 1;
  for (const SamplingParams& params : Kinds()) {
    const std::vector<SampledToken> want = OneByOne(id++, params);
    ASSERT_EQ(want.size(), static_cast<size_t>(kTokens));
    EXPECT_EQ(Ahead(id++, params, [](int) { return true; }), want);
    ExpectTheSameGraphs();
  }
}

TEST_P(CudaAheadRanks, RanksNeedNotBeEquallyFar) {
  SequenceId id = 1;
  for (const SamplingParams& params : Kinds()) {
    const std::vector<SampledToken> want = OneByOne(id++, params);
    for (const int first : {0, 1}) {
      EXPECT_EQ(Ahead(id++, params, [&](int rank) { return rank % 2 == first; }), want);
      ExpectTheSameGraphs();
    }
  }
}

TEST_P(CudaAheadRanks, AStepsErrorIsItsOwn) {
  std::vector<SampledToken> tokens;
  EachRank([&](int rank) {
    Executor& executor = *ranks_[rank].executor;
    executor.Begin(Plan(1, {Prompt(1, kPrompt)}));
    executor.Begin(Plan(2, {Decode(77, 5)}));  // wrong: refused by all alike
    End(executor, tokens);
    EXPECT_THAT(executor.End().error().message, HasSubstr("sequence 77: is not known"));
    executor.Begin(Plan(3, {Decode(1, 5)}));
    executor.Begin(Plan(4, {Decode(1, 6)}));
    End(executor, tokens);
    if (rank == 1) {
      ranks_[rank].watched->event_queried = {cuda::Failure::kOther, 700, "cudaErrorIllegalAddress"};
      EXPECT_THAT(executor.End().error().message, HasSubstr("cudaErrorIllegalAddress"));
    } else {
      End(executor, tokens);
    }
  });
  EXPECT_EQ(tokens.size(), 3u);
}

INSTANTIATE_TEST_SUITE_P(cuda, CudaAheadRanks, ::testing::Values(2, 3));

}  // namespace
}  // namespace echelon
