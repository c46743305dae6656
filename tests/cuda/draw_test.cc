// Tokens drawn by the CUDA backend are the host's, bit for bit: greedy, Gumbel-max, top_k, top_p,
// over vocabularies of less than a slice and of several, with logits that are no numbers.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "tests/unit/kernels/ops_kit.h"
#include "worker/comm/local_comm.h"
#include "worker/sampler.h"

namespace echelon {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class CudaDraw : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeBackend({.name = "cuda"});
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    backend_ = std::move(made).value();
  }
  // Both ways of drawing from the rows, each by parameters of its own.
  void Compare(const std::vector<float>& logits, int64_t vocab,
               const std::vector<SamplingParams>& params) {
    const auto comms = MakeLocalCommunicators(1);
    Sampler sampler({0, vocab}, *comms[0]);
    const auto count = static_cast<int64_t>(params.size());
    test::FloatBuffer device(*backend_, count, vocab, logits, vocab + 1, 1);
    std::vector<DrawRow> draws;
    std::vector<SampleRow> rows;
    for (int64_t r = 0; r < count; ++r) {
      const auto id = static_cast<SequenceId>(r);
      const auto position = static_cast<int32_t>(3 * r + 5);
      sampler.Start(id, params[r], 1);
      draws.push_back(sampler.DrawnByBackend(id, position).value());
      draws.back().row = static_cast<int32_t>(r);
      rows.push_back({id, {logits.data() + r * vocab, static_cast<size_t>(vocab)}, position});
    }
    std::vector<DrawnToken> drawn(draws.size());
    backend_->DrawTokens(device.tensor(), draws, drawn);
    backend_->Synchronize();
    const auto want = sampler.Run(rows);
    for (size_t r = 0; r < drawn.size(); ++r) {
      EXPECT_EQ(drawn[r].id, want[r].token) << r << " of " << vocab;
      EXPECT_TRUE(test::SameBits({&drawn[r].logit, 1}, {&want[r].logit, 1})) << r;
    }
  }

  std::unique_ptr<Backend> backend_;
};

constexpr int kKinds = 10;
std::vector<SamplingParams> Kinds() {
  std::vector<SamplingParams> kinds(kKinds);
  kinds[0].temperature = 0.0f;
  kinds[1].temperature = 0.7f;
  kinds[2].temperature = 5.0f;
  kinds[3].min_p = 0.05f;
  kinds[4].temperature = 0.05f;
  kinds[5].top_k = 1;
  kinds[6].top_k = 40;
  kinds[6].temperature = 2.0f;
  kinds[7].top_p = 0.9f;
  kinds[7].temperature = 1.5f;
  kinds[8].top_k = 100;
  kinds[8].top_p = 0.5f;
  kinds[8].min_p = 0.01f;
  kinds[9].top_k = 1 << 20;  // more than there are
  kinds[9].top_p = 1e-6f;
  for (size_t i = 0; i < kinds.size(); ++i) kinds[i].seed = 17 * i + 3;
  return kinds;
}

TEST_F(CudaDraw, IsTheHosts) {
  for (const int64_t vocab : {1, 3, 255, 4096, 4097, 13000}) {
    std::mt19937 random(static_cast<uint32_t>(vocab));
    std::normal_distribution<float> normal(0.0f, 3.0f);
    std::vector<float> logits(static_cast<size_t>(kKinds * vocab));
    for (float& logit : logits) logit = std::nearbyint(normal(random) * 4) / 4;  // with ties
    Compare(logits, vocab, Kinds());
  }
}

TEST_F(CudaDraw, LogitsThatAreNoNumbers) {
  const int64_t vocab = 5000;
  const float fills[] = {kInf, -kInf, std::nanf(""), 1.0f};
  for (const float fill : fills) {
    for (const float one : fills) {
      std::vector<float> logits(static_cast<size_t>(kKinds * vocab), fill);
      for (int64_t r = 0; r < kKinds; ++r) logits[r * vocab + 4500] = one;
      Compare(logits, vocab, Kinds());
    }
  }
}

TEST_F(CudaDraw, WhatNeedsTheHostIsLeftToIt) {
  const auto one = MakeLocalCommunicators(1), two = MakeLocalCommunicators(2);
  Sampler alone({0, 10}, *one[0]), shared({0, 5}, *two[0]);
  const auto asks = [](Sampler& sampler, const SamplingParams& params) {
    sampler.Start(1, params, 1);
    return sampler.DrawnByBackend(1, 0).has_value();
  };
  SamplingParams params;
  EXPECT_TRUE(asks(alone, params));
  EXPECT_FALSE(asks(shared, params));
  for (const auto& change : std::vector<std::function<void(SamplingParams&)>>{
           [](SamplingParams& p) { p.logprobs = 0; },
           [](SamplingParams& p) { p.presence_penalty = 0.5f; },
           [](SamplingParams& p) {
             p.logit_bias = {{3, 1.0f}};
           }}) {
    SamplingParams changed = params;
    change(changed);
    EXPECT_FALSE(asks(alone, changed));
  }
  params.top_k = 5;
  params.top_p = 0.9f;
  EXPECT_TRUE(asks(alone, params));
}

}  // namespace
}  // namespace echelon
