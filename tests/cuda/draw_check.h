#pragma once
// What the draws of a backend on rows of logits, or on one rank's columns of them, are compared
// with: the host's draws from the whole rows.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/strings.h"
#include "tests/unit/kernels/ops_kit.h"
#include "worker/comm/local_comm.h"
#include "worker/sampler.h"

namespace echelon::testing {

inline constexpr int32_t kPromptTokens = 4;
inline constexpr int kKinds = 16;

// Parameters of every kind, a row each.
inline std::vector<SamplingParams> Kinds(int64_t vocab) {
  const auto last = static_cast<int32_t>(vocab - 1);
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
  kinds[10].temperature = 0.0f;  // draws what it drew before until it costs too much
  kinds[10].frequency_penalty = 1.5f;
  kinds[10].presence_penalty = 0.3f;
  kinds[10].logprobs = 0;
  kinds[11].repetition_penalty = 1.3f;
  kinds[11].top_k = 3;
  kinds[12].repetition_penalty = 0.7f;
  kinds[12].frequency_penalty = -0.11f;
  kinds[12].logit_bias = {{0, 3.3f}, {last, 5.0f}};
  kinds[12].top_p = 0.8f;
  kinds[12].logprobs = 3;
  kinds[13].logit_bias = {{last, 100.0f}};
  kinds[13].logprobs = kDrawnBestMax;
  kinds[14].temperature = 0.0f;
  kinds[14].presence_penalty = 0.7f;
  kinds[14].logit_bias = {{last, 20.0f}};
  kinds[15].logprobs = 5;
  for (size_t i = 0; i < kinds.size(); ++i) kinds[i].seed = 17 * i + 3;
  return kinds;
}

// Rows of every kind, with ties.
inline std::vector<float> DrawLogits(int64_t vocab) {
  std::mt19937 random(static_cast<uint32_t>(vocab));
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(static_cast<size_t>(kKinds * vocab));
  for (float& logit : logits) logit = std::nearbyint(normal(random) * 4) / 4;
  return logits;
}

// Rows of which all logits but one are the same, and hardly any a number.
inline constexpr int64_t kNoNumbersVocab = 5000;
inline std::vector<std::vector<float>> NoNumbers() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float fills[] = {kInf, -kInf, std::nanf(""), 1.0f};
  std::vector<std::vector<float>> all;
  for (const float fill : fills) {
    for (const float one : fills) {
      std::vector<float>& rows = all.emplace_back(kKinds * kNoNumbersVocab, fill);
      for (int64_t r = 0; r < kKinds; ++r) rows[r * kNoNumbersVocab + 4500] = one;
    }
  }
  return all;
}

// The columns [own.begin, own.end) of rows of the whole vocabulary.
inline std::vector<float> PartOf(const std::vector<float>& logits, int64_t vocab, Range own) {
  std::vector<float> of_part;
  for (auto row = logits.begin(); row != logits.end(); row += vocab) {
    of_part.insert(of_part.end(), row + own.begin, row + own.end);
  }
  return of_part;
}
inline void ExpectSame(const SampledToken& got, const SampledToken& want,
                       const std::string& where) {
  EXPECT_EQ(got.token, want.token) << where;
  EXPECT_TRUE(test::SameBits({&got.logit, 1}, {&want.logit, 1})) << where;
  ASSERT_EQ(got.top.size(), want.top.size()) << where;
  for (size_t k = 0; k < want.top.size(); ++k) {
    EXPECT_EQ(got.top[k].id, want.top[k].id) << where << ", best " << k;
    EXPECT_TRUE(test::SameBits({&got.top[k].logprob, 1}, {&want.top[k].logprob, 1}))
        << where << ", best " << k;
  }
}

// Both ways of drawing from kKinds rows, each by parameters of its own; and twice more, when the
// token drawn counts, whose number the device alone is told.
inline void CompareDraws(Backend& backend, Range own, const VocabPart* part,
                         const std::vector<float>& logits, int64_t vocab,
                         const std::vector<SamplingParams>& params) {
  const auto comms = MakeLocalCommunicators(1);
  Sampler sampler({0, vocab}, *comms[0]), hosts({0, vocab}, *comms[0]);
  const auto count = static_cast<int64_t>(params.size());
  const std::vector<float> of_part = PartOf(logits, vocab, own);
  for (int64_t r = 0; r < count; ++r) {
    for (Sampler* each : {&sampler, &hosts}) {
      each->Start(static_cast<SequenceId>(r), params[r], kPromptTokens);
      for (int32_t at = 0; at < 2 * kPromptTokens; ++at) {
        const auto token = static_cast<int32_t>((r + 1) * (at % 5) * 977 % vocab);
        each->StateOf(static_cast<SequenceId>(r)).Observe(at, token);
      }
    }
  }
  std::map<size_t, int32_t> told;  // of each row the token that the last round drew
  for (int32_t round = 0; round < 3; ++round) {
    test::FloatBuffer device(backend, count, own.size(), of_part, own.size() + 1, 1);
    DrawBatch draws;
    std::vector<SampleRow> rows;
    for (int64_t r = 0; r < count; ++r) {
      const auto id = static_cast<SequenceId>(r);
      const auto position = static_cast<int32_t>(3 * r + 5) + round;
      ASSERT_TRUE(sampler.AddDraw(id, position, static_cast<int32_t>(r), draws));
      rows.push_back({id, {logits.data() + r * vocab, static_cast<size_t>(vocab)}, position});
    }
    backend.DrawTokens(draws.Ask(device.tensor(), part));
    backend.Synchronize();
    const auto want = hosts.Run(rows);
    for (size_t r = 0; r < want.size(); ++r) {
      const std::string where = StrCat("row ", r, " of ", vocab, ", round ", round, ", tokens ",
                                       own.begin, " to ", own.end);
      ExpectSame(draws.AnswerOf(r), want[r], where);
      if (round > 0) sampler.SetDrawn(r, told[r]);
      sampler.StateOf(r).Observe(2 * kPromptTokens, DrawnId(static_cast<int32_t>(r)));
      hosts.StateOf(r).Observe(2 * kPromptTokens, want[r].token);
      told[r] = want[r].token;
    }
  }
}
inline void CompareDraws(Backend& backend, Range own, const VocabPart* part,
                         const std::vector<float>& logits, int64_t vocab) {
  CompareDraws(backend, own, part, logits, vocab, Kinds(vocab));
}
// Every row scored for a token of its own, with more and fewer of the best.
inline void CompareScores(Backend& backend, Range own, const VocabPart* part,
                          const std::vector<float>& logits, int64_t vocab) {
  const auto comms = MakeLocalCommunicators(1);
  Sampler sampler({0, vocab}, *comms[0]);
  const auto count = static_cast<int64_t>(logits.size()) / vocab;
  const test::FloatBuffer device(backend, count, own.size(), PartOf(logits, vocab, own));
  DrawBatch scores;
  std::vector<SampleRow> rows;
  for (int64_t r = 0; r < count; ++r) {
    const auto id = static_cast<SequenceId>(r);
    SamplingParams params;
    params.temperature = 1.5f;
    params.prompt_logprobs = static_cast<int32_t>(r % (kDrawnBestMax + 1));
    params.presence_penalty = 1.0f;  // not of what is scored
    sampler.Start(id, params, kPromptTokens);
    sampler.StateOf(id).Observe(0, 0);
    const auto known = static_cast<int32_t>(r * 4099 % vocab);
    ASSERT_TRUE(sampler.AddScore(id, known, static_cast<int32_t>(r), scores));
    rows.push_back({id, {logits.data() + r * vocab, static_cast<size_t>(vocab)}, 0, known});
  }
  backend.DrawTokens(scores.Ask(device.tensor(), part));
  backend.Synchronize();
  const auto want = sampler.Run(rows);
  for (size_t r = 0; r < want.size(); ++r) {
    ExpectSame(scores.AnswerOf(r), want[r], StrCat("row ", r, " of ", vocab));
  }
}
}  // namespace echelon::testing
