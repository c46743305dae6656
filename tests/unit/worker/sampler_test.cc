#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <set>

#include "tests/unit/worker/vocab_ranks.h"

namespace echelon {
namespace {

constexpr SequenceId kId = 7;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// One question to the sampler: a sequence with its past, one row of logits.
struct Ask {
  SamplingParams params;
  std::vector<float> logits;
  int32_t position = 10;
  int32_t known_next = -1;
  int32_t prompt_tokens = 4;
  std::vector<int32_t> past;  // tokens at positions 0, 1, ...
};

// Every rank's answers to all asks in one batch; the ranks must agree.
std::vector<SampledToken> Sample(const std::vector<Ask>& asks, int tp) {
  std::vector<std::vector<SampledToken>> answers;
  std::mutex mutex;
  testing::OnVocabRanks(
      static_cast<int64_t>(asks[0].logits.size()), tp, [&](Range part, Communicator& comm) {
        Sampler sampler(part, comm);
        std::vector<SampleRow> rows;
        for (size_t i = 0; i < asks.size(); ++i) {
          sampler.Start(kId + i, asks[i].params, asks[i].prompt_tokens);
          for (size_t p = 0; p < asks[i].past.size(); ++p) {
            sampler.StateOf(kId + i).Observe(static_cast<int32_t>(p), asks[i].past[p]);
          }
          rows.push_back({kId + i, std::span(asks[i].logits).subspan(part.begin, part.size()),
                          asks[i].position, asks[i].known_next});
        }
        auto mine = sampler.Run(rows);
        const std::lock_guard lock(mutex);
        answers.push_back(std::move(mine));
      });
  for (const auto& other : answers) {
    for (size_t i = 0; i < asks.size(); ++i) {
      EXPECT_EQ(other[i].token, answers[0][i].token);
      EXPECT_EQ(std::bit_cast<uint32_t>(other[i].logit),
                std::bit_cast<uint32_t>(answers[0][i].logit));
      EXPECT_EQ(other[i].top, answers[0][i].top);
    }
  }
  return answers[0];
}

SampledToken SampleOne(const Ask& ask, int tp = 1) { return Sample({ask}, tp)[0]; }

Ask Greedy(std::vector<float> logits) {
  Ask ask;
  ask.logits = std::move(logits);
  ask.params.temperature = 0.0f;
  return ask;
}

TEST(Sampler, GreedyIsTheArgmaxAndTiesGoToTheLowerId) {
  std::vector<float> logits(300, -1.0f);
  logits[70] = logits[200] = logits[299] = 4.0f;  // on three of four ranks
  for (const int tp : {1, 2, 4}) {
    const SampledToken result = SampleOne(Greedy(logits), tp);
    EXPECT_EQ(result.token, 70);
    EXPECT_EQ(result.logit, 4.0f);
  }
}

TEST(Sampler, LogitsThatAreNoNumbersAreNeverChosenOverNumbers) {
  std::vector<float> logits(200, kNan);
  logits[150] = -std::numeric_limits<float>::infinity();
  logits[160] = -3.0f;
  Ask ask = Greedy(logits);
  EXPECT_EQ(SampleOne(ask, 2).token, 160);
  ask.params.temperature = 1.0f;
  ask.params.top_p = 0.9f;
  EXPECT_EQ(SampleOne(ask, 2).token, 160);
  ask.logits.assign(200, kNan);  // nothing to choose from: some token of the vocabulary, no crash
  EXPECT_EQ(SampleOne(ask, 2).token, 0);
}

// The same token, logit and log-probabilities on any tp, whatever is asked for, in one batch.
TEST(Sampler, TpChangesNothing) {
  std::vector<Ask> asks;
  for (uint32_t i = 0; i < 40; ++i) {
    Ask ask;
    ask.logits = testing::RandomLogits(777, 100 + i);
    ask.params.temperature = i % 5 == 0 ? 0.0f : 0.3f * static_cast<float>(i % 7 + 1);
    ask.params.top_k = i % 3 == 0 ? 20 : 0;
    ask.params.top_p = i % 4 == 0 ? 1.0f : 0.8f;
    ask.params.min_p = i % 6 == 0 ? 0.05f : 0.0f;
    ask.params.repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f;
    ask.params.presence_penalty = i % 7 == 0 ? 0.5f : 0.0f;
    ask.params.frequency_penalty = i % 9 == 0 ? 0.2f : 0.0f;
    if (i % 8 == 0) ask.params.logit_bias = {{3, 2.0f}, {600, -100.0f}};
    ask.params.seed = i;
    ask.params.logprobs = static_cast<int32_t>(i % 6) - 1;
    ask.params.prompt_logprobs = 5;
    ask.known_next = i % 10 == 9 ? 650 : -1;
    ask.past = {5, 6, 5, 700, 5, 333};
    asks.push_back(std::move(ask));
  }
  const auto one = Sample(asks, 1);
  for (const int tp : {2, 3, 5, 13}) {  // 13 units of 64 make 777: one a rank
    const auto many = Sample(asks, tp);
    for (size_t i = 0; i < asks.size(); ++i) {
      EXPECT_EQ(many[i].token, one[i].token) << i;
      EXPECT_EQ(many[i].logit, one[i].logit) << i;
      EXPECT_EQ(many[i].top, one[i].top) << i;
    }
  }
}

// Frequencies of draws at many positions against the softmax.
TEST(Sampler, DrawsFromTheSoftmax) {
  constexpr int kDraws = 20'000;
  Ask ask;
  ask.logits = {1.0f, 0.0f, 2.0f, -1.0f, 1.5f};
  ask.params.temperature = 0.7f;
  ask.params.seed = 11;
  std::vector<Ask> asks(kDraws, ask);
  for (int i = 0; i < kDraws; ++i) asks[i].position = i;
  std::vector<int> seen(5, 0);
  for (const SampledToken& result : Sample(asks, 1)) ++seen[result.token];
  double sum = 0.0;
  for (const float l : ask.logits) sum += std::exp(l / 0.7);
  double chi_squared = 0.0;
  for (int t = 0; t < 5; ++t) {
    const double expected = kDraws * std::exp(ask.logits[t] / 0.7) / sum;
    chi_squared += (seen[t] - expected) * (seen[t] - expected) / expected;
  }
  EXPECT_LT(chi_squared,
            18.5);  // 4 degrees of freedom: exceeded once in 1000 seeds; this one is fixed
}

std::set<int32_t> Support(Ask ask) {
  std::vector<Ask> asks(3000, ask);
  for (size_t i = 0; i < asks.size(); ++i) asks[i].position = static_cast<int32_t>(i);
  std::set<int32_t> seen;
  for (const SampledToken& result : Sample(asks, 1)) seen.insert(result.token);
  return seen;
}

TEST(Sampler, FiltersKeepWhatTheyShould) {
  Ask ask;  // probabilities 0.4, 0.2, 0.2, 0.1, 0.05, 0.05
  for (const double p : {0.4, 0.2, 0.2, 0.1, 0.05, 0.05}) {
    ask.logits.push_back(static_cast<float>(std::log(p)));
  }
  using Ids = std::set<int32_t>;
  EXPECT_EQ(Support(ask), (Ids{0, 1, 2, 3, 4, 5}));
  ask.params.top_k = 2;  // a tie at the second place: both stay
  EXPECT_EQ(Support(ask), (Ids{0, 1, 2}));
  ask.params.top_k = 1;
  EXPECT_EQ(Support(ask), (Ids{0}));
  ask.params.top_k = 0;
  ask.params.top_p = 0.75f;
  EXPECT_EQ(Support(ask), (Ids{0, 1, 2}));
  ask.params.top_p = 0.85f;
  EXPECT_EQ(Support(ask), (Ids{0, 1, 2, 3}));
  ask.params.top_p = 0.0f;
  EXPECT_EQ(Support(ask), (Ids{0}));
  ask.params.top_p = 1.0f;
  ask.params.min_p = 0.24f;  // of 0.4: at least 0.096
  EXPECT_EQ(Support(ask), (Ids{0, 1, 2, 3}));
  // top_p over what top_k left: 0.4 / 0.8 = 0.5 is reached by the first alone.
  ask.params.min_p = 0.0f;
  ask.params.top_k = 3;
  ask.params.top_p = 0.49f;
  EXPECT_EQ(Support(ask), (Ids{0}));
}

TEST(Sampler, ADrawDependsOnSeedAndPositionAlone) {
  Ask ask;
  ask.logits = testing::RandomLogits(400, 3);
  ask.params.temperature = 3.0f;
  const auto draw = [&](uint64_t seed, int32_t position) {
    ask.params.seed = seed;
    ask.position = position;
    return SampleOne(ask).token;
  };
  std::set<int32_t> by_seed, by_position;
  for (int i = 0; i < 20; ++i) {
    by_seed.insert(draw(i, 5));
    by_position.insert(draw(0, i));
    EXPECT_EQ(draw(i, 5), draw(i, 5));
  }
  EXPECT_GT(by_seed.size(), 5u);
  EXPECT_GT(by_position.size(), 5u);
}

// HF's and vLLM's definitions: repetition over prompt and generated, the others over generated
// only.
TEST(Sampler, PenaltiesCountPromptAndGeneratedTokens) {
  Ask ask = Greedy({1.0f, 3.0f, 2.9f, -1.0f, 2.0f, 2.5f});
  ask.prompt_tokens = 2;
  ask.past = {1, 3, 5, 5, 2};  // prompt 1, 3; generated 5, 5, 2
  EXPECT_EQ(SampleOne(ask).token, 1);
  ask.params.presence_penalty = 1.0f;  // 5 and 2 fall by 1; 1 is only in the prompt
  EXPECT_EQ(SampleOne(ask).token, 1);
  ask.params.repetition_penalty = 1.2f;  // 3.0 / 1.2 = 2.5 for 1; 2.9 / 1.2 - 1; 2.5 / 1.2 - 1
  EXPECT_EQ(SampleOne(ask).token, 1);
  ask.params.repetition_penalty = 1.6f;  // 1: 1.875; 4, never seen: 2.0
  EXPECT_EQ(SampleOne(ask).token, 4);
  EXPECT_EQ(SampleOne(ask).logit, 2.0f);
  ask.params.logit_bias = {{1, 1.0f}};  // (3 + 1) / 1.6 = 2.5
  EXPECT_EQ(SampleOne(ask).token, 1);
  EXPECT_EQ(SampleOne(ask).logit, 3.0f);  // the raw logit
}

TEST(Sampler, FrequencyPenaltyCountsEachOccurrence) {
  Ask ask = Greedy({2.0f, 2.5f, 0.0f});
  ask.prompt_tokens = 1;
  ask.past = {0, 1, 1};
  ask.params.frequency_penalty = 0.2f;  // 2.5 - 0.4
  EXPECT_EQ(SampleOne(ask).token, 1);
  ask.past.push_back(1);  // 2.5 - 0.6
  EXPECT_EQ(SampleOne(ask).token, 0);
}

TEST(Sampler, ANegativeLogitIsPenalisedDownwards) {
  Ask ask = Greedy({-1.0f, -1.5f});
  ask.past = {0};
  ask.params.repetition_penalty = 2.0f;  // -1 * 2 = -2
  EXPECT_EQ(SampleOne(ask).token, 1);
}

TEST(Sampler, LogprobsAreTheModelsOwn) {
  Ask ask;
  ask.logits = testing::RandomLogits(500, 8);
  ask.params.temperature = 5.0f;  // changes the draw, not the log-probabilities
  ask.params.logit_bias = {{499, 50.0f}};
  ask.params.logprobs = 4;
  double sum = 0.0;
  for (const float l : ask.logits) sum += std::exp(static_cast<double>(l));
  std::vector<int32_t> order(500);
  for (int32_t i = 0; i < 500; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return ask.logits[a] > ask.logits[b]; });
  const SampledToken result = SampleOne(ask, 3);
  EXPECT_EQ(result.token, 499);
  ASSERT_EQ(result.top.size(), 5u);  // the chosen one behind the four best
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(result.top[i].id, i < 4 ? order[i] : 499);
    EXPECT_NEAR(result.top[i].logprob, ask.logits[result.top[i].id] - std::log(sum), 1e-6);
  }
  ask.params.logit_bias = {{order[1], 50.0f}};
  EXPECT_EQ(SampleOne(ask, 3).top.size(), 4u);  // chosen is among the best
  ask.params.logprobs = 0;
  EXPECT_EQ(SampleOne(ask, 3).top.size(), 1u);
  ask.params.logprobs = -1;
  EXPECT_TRUE(SampleOne(ask, 3).top.empty());
}

TEST(Sampler, AKnownTokenIsScoredNotDrawn) {
  Ask ask;
  ask.logits = testing::RandomLogits(500, 9);
  ask.params.prompt_logprobs = 2;
  ask.known_next = 417;
  const SampledToken result = SampleOne(ask, 2);
  EXPECT_EQ(result.token, 417);
  EXPECT_EQ(result.logit, ask.logits[417]);
  ASSERT_GE(result.top.size(), 2u);
  EXPECT_EQ(result.top.back().id, 417);
}

}  // namespace
}  // namespace echelon
