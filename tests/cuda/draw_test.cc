// Tokens drawn by the CUDA backend are the host's, bit for bit, and so are their log-probabilities:
// greedy, Gumbel-max, top_k, top_p, with biases and penalties, over vocabularies of less than a
// slice and of several, with logits that are no numbers.

#include <gtest/gtest.h>

#include "tests/cuda/draw_check.h"

namespace echelon {
namespace {

class CudaDraw : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeBackend({.name = "cuda"});
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    backend_ = std::move(made).value();
  }

  std::unique_ptr<Backend> backend_;
};

TEST_F(CudaDraw, IsTheHosts) {
  for (const int64_t vocab : {1, 3, 255, 4096, 4097, 13000}) {
    testing::CompareDraws(*backend_, {0, vocab}, nullptr, testing::DrawLogits(vocab), vocab);
  }
}

TEST_F(CudaDraw, ScoresKnownTokensAsTheHostDoes) {
  for (const int64_t vocab : {1, 255, 9000}) {
    testing::CompareScores(*backend_, {0, vocab}, nullptr, testing::DrawLogits(vocab), vocab);
  }
}

TEST_F(CudaDraw, LogitsThatAreNoNumbers) {
  for (const auto& logits : testing::NoNumbers()) {
    testing::CompareDraws(*backend_, {0, testing::kNoNumbersVocab}, nullptr, logits,
                          testing::kNoNumbersVocab);
  }
}

// A slice whose masses are all the greatest there is, in one digit of the search; what a top_p of
// a half leaves out has two fifths of the mass, so one of the draws would show that it was kept.
TEST_F(CudaDraw, ASliceOfTheGreatestMasses) {
  const int64_t vocab = 2 * 4096;
  std::vector<SamplingParams> params(testing::kKinds);
  for (size_t i = 0; i < params.size(); ++i) {
    params[i].top_p = 0.5f;
    params[i].seed = i;
  }
  std::vector<float> logits(static_cast<size_t>(testing::kKinds * vocab), 0.0f);
  for (size_t at = 0; at < logits.size(); ++at) {
    if (at % vocab >= 4096) logits[at] = -0.4f;
  }
  testing::CompareDraws(*backend_, {0, vocab}, nullptr, logits, vocab, params);
}

TEST_F(CudaDraw, WhatNeedsTheHostIsLeftToIt) {
  const auto one = MakeLocalCommunicators(1);
  Sampler alone({0, 10}, *one[0]);
  const auto asks = [](Sampler& sampler, const SamplingParams& params, int32_t tokens) {
    sampler.Start(1, params, 1);
    for (int32_t t = 0; t < tokens; ++t) sampler.StateOf(1).Observe(t, t);
    DrawBatch draws;
    return sampler.AddDraw(1, 0, 0, draws);
  };
  SamplingParams params;
  const auto many = static_cast<int32_t>(DrawBatch::kChangesMax);
  EXPECT_TRUE(asks(alone, params, many + 1));
  params.logprobs = kDrawnBestMax;
  EXPECT_TRUE(asks(alone, params, 1));
  params.presence_penalty = 0.5f;
  EXPECT_TRUE(asks(alone, params, many));
  EXPECT_FALSE(asks(alone, params, many + 1));
  params.logprobs = kDrawnBestMax + 1;
  EXPECT_FALSE(asks(alone, params, 1));
}

}  // namespace
}  // namespace echelon
