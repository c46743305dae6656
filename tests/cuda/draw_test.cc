// Tokens drawn by the CUDA backend are the host's, bit for bit, and so are their log-probabilities:
// greedy, Gumbel-max, top_k, top_p, with biases and penalties, over vocabularies of less than a
// slice and of several, with logits that are no numbers.

#include <gtest/gtest.h>

#include "kernels/exact_math.h"
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

// A slice's masses all in one digit: as great as they can be; and of one logit that is greater, the
// rest so far below it (at the temperature of the row with top_p alone) that each mass has all its
// low bits.
TEST_F(CudaDraw, SumsOfSlicesAtTheirGreatest) {
  constexpr uint64_t kLow = (uint64_t{1} << 20) - 1;
  const auto low_bits = [](int k) {
    return MassOf((1.0 - static_cast<double>(1.0f + static_cast<float>(k) / 4096)) / 1.5) & kLow;
  };
  int most = 1;
  for (int k = 1; k < 4096; ++k) most = low_bits(k) > low_bits(most) ? k : most;
  EXPECT_GT(low_bits(most), kLow - kLow / 256);
  for (const int64_t vocab : {4096, 8200}) {
    std::vector<float> logits(static_cast<size_t>(testing::kKinds * vocab), 1.0f);
    testing::CompareDraws(*backend_, {0, vocab}, nullptr, logits, vocab);
    for (int64_t row = 0; row < testing::kKinds; ++row) {
      logits[row * vocab + 77] = 1.0f + static_cast<float>(most) / 4096;
    }
    testing::CompareDraws(*backend_, {0, vocab}, nullptr, logits, vocab);
  }
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
