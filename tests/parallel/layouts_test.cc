// Every layout of ranks computes the same model: tp x pp x schedule over threads as ranks, on tiny
// random models of every family, against a naive twin in double precision and against each other.

#include <gtest/gtest.h>

#include <cmath>

#include "common/run_setup.h"
#include "tests/support/worker/layout_models.h"
#include "tests/support/worker/naive_model.h"

namespace echelon {
namespace {

using testing::Answer;
using testing::Generate;
using testing::kPageTokens;
using testing::kPromptTokens;
using testing::NaiveModel;
using testing::Pace;
using testing::RandomIds;
using testing::Schedule;
using testing::Scored;
using testing::Wish;

class Layouts : public testing::LayoutTest {
 protected:
  std::unique_ptr<LocalGroup> Group(int tp, int pp, int threads = 1) {
    ParallelLayout layout;
    layout.tp = tp;
    layout.pp = pp;
    return LayoutTest::Group(layout, threads);
  }
};

TEST_P(Layouts, AgreeWithTheTwin) {
  const Wish wish = Scored();
  for (const int tp : {1, 2, 3, 4}) {
    const auto group = Group(tp, 1);
    const auto answers = Generate(*group, {wish}, kPageTokens);
    EXPECT_LT(groups_.WorstAgainstTwin(wish, answers[0], tp), GetParam().tolerance)
        << "tp = " << tp;
  }
}

// Ranks that share a layer unevenly compute the same model.
TEST_P(Layouts, UnevenShardsAgreeWithTheTwin) {
  if (groups_.model().schedule == ScheduleKind::kDesync) return;  // its twin has even ranks
  const Wish wish = Scored();
  for (const std::vector<int>& shares : {std::vector<int>{3, 1}, {1, 2, 4}}) {
    ParallelLayout layout;
    layout.tp = static_cast<int>(shares.size());
    layout.shard_shares = shares;
    const auto answers = Generate(*LayoutTest::Group(layout, 1), {wish}, kPageTokens);
    EXPECT_LT(groups_.WorstAgainstTwin(wish, answers[0], layout.tp), GetParam().tolerance)
        << "tp = " << layout.tp;
  }
}

// The twin itself can tell the schedules apart by far more than the tolerance, and desync its tp:
// otherwise the agreement above would say little.
TEST_P(Layouts, TheTwinTellsSchedulesApart) {
  const std::vector<int32_t> ids = RandomIds(kPromptTokens, 5);
  const auto distance = [&](const testing::Matrix& a, const testing::Matrix& b) {
    double worst = 0.0;
    for (size_t p = 0; p < a.size(); ++p) {
      for (size_t t = 0; t < a[p].size(); ++t) worst = std::max(worst, std::abs(a[p][t] - b[p][t]));
    }
    return worst;
  };
  const NaiveModel twin(groups_.checkpoint(), groups_.model());
  if (groups_.model().schedule != ScheduleKind::kStandard) {
    const ModelConfig standard =
        ModelFrom(groups_.checkpoint().config(), Schedule("standard", "", "")).value().model;
    const int tp = groups_.model().schedule == ScheduleKind::kDesync ? 2 : 1;
    const double away = distance(NaiveModel(groups_.checkpoint(), standard).LogProbabilities(ids),
                                 twin.LogProbabilities(ids, tp));
    EXPECT_GT(away, 0.1);
  }
  if (groups_.model().schedule == ScheduleKind::kDesync) {
    EXPECT_GT(distance(twin.LogProbabilities(ids, 2), twin.LogProbabilities(ids, 3)), 0.1);
  }
}

// A stage boundary changes nothing: the same operations on the same numbers, to the bit.
TEST_P(Layouts, PipelineStagesKeepEveryBit) {
  const Wish wish = Scored();
  for (const int tp : {1, 2, 4}) {
    const auto one = Generate(*Group(tp, 1), {wish}, kPageTokens);
    for (const int pp : {2, 3}) {
      if (tp * pp > 8) continue;
      const auto staged =
          Generate(*Group(tp, pp), {wish}, kPageTokens, {.chunk = 5, .plans_ahead = pp});
      EXPECT_EQ(staged, one) << "tp = " << tp << ", pp = " << pp;
    }
  }
}

// Row invariance through the whole worker: chunks, company, order of pages, threads, plans ahead.
TEST_P(Layouts, CompanyAndChunksKeepEveryBit) {
  const Wish wish = Scored();
  const auto group = Group(2, 1);
  const auto alone = Generate(*group, {wish}, kPageTokens);
  for (const int chunk : {1, 7}) {
    EXPECT_EQ(Generate(*group, {wish}, kPageTokens, {.chunk = chunk}), alone) << chunk;
  }
  std::vector<Wish> company = {wish};
  for (int i = 0; i < 4; ++i) {
    Wish other;
    other.prompt = RandomIds(3 + 5 * i, 70 + i);
    other.params.seed = i;
    other.params.temperature = i % 2 == 0 ? 1.0f : 0.0f;
    other.begin_step = i;
    other.max_tokens = 4 + i;
    company.insert(i % 2 == 0 ? company.begin() : company.end(), other);
  }
  const Pace mixed{.chunk = 6, .plans_ahead = 2, .alternate = 2, .page_seed = 3};
  EXPECT_EQ(Generate(*group, company, kPageTokens, mixed)[2], alone[0]);
  EXPECT_EQ(Generate(*Group(2, 1, 2), {wish}, kPageTokens), alone) << "2 threads";
}

// A step in two parts: the same operations on the same rows, whose sums travel at other times.
TEST_P(Layouts, TokenSplitKeepsEveryBit) {
  std::vector<Wish> company = {Scored()};
  for (int i = 0; i < 3; ++i) {
    Wish other;
    other.prompt = RandomIds(2 + 7 * i, 90 + i);
    other.params.seed = i;
    other.begin_step = i;
    company.push_back(other);
  }
  for (const int tp : {1, 2, 3}) {
    for (const int pp : {1, 2}) {
      ParallelLayout layout;
      layout.tp = tp;
      layout.pp = pp;
      LocalGroupOptions options = groups_.Options(layout);
      const Pace pace{.chunk = 9, .plans_ahead = pp, .alternate = pp};
      const auto whole = Generate(*groups_.Start(options), company, kPageTokens, pace);
      options.executor.token_split = TokenSplitMode::kOn;
      EXPECT_EQ(Generate(*groups_.Start(options), company, kPageTokens, pace), whole)
          << "tp = " << tp << ", pp = " << pp;
    }
  }
}

// Guessed tokens are kept as far as they are what would have been drawn without: any tp, pp, chunk
// and company gives the same tokens, logits and log-probabilities, greedy and sampled.
TEST_P(Layouts, SpeculationKeepsEveryBit) {
  std::vector<Wish> wishes(3);
  for (size_t i = 0; i < wishes.size(); ++i) {
    wishes[i].prompt = RandomIds(3 + 10 * static_cast<int>(i), 40 + i);
    wishes[i].max_tokens = 14;
    wishes[i].params.seed = i;
    wishes[i].params.logprobs = 2;
    wishes[i].params.prompt_logprobs = i == 1 ? 1 : -1;
  }
  wishes[0].params.temperature = 0.0f;
  wishes[1].params.top_k = 40;
  wishes[1].params.top_p = 0.8f;
  wishes[1].params.logit_bias = {{7, 2.0f}, {150, 3.0f}};
  wishes[2].params.temperature = 1.5f;
  for (const int tp : {1, 2, 3}) {
    const auto plain = Generate(*Group(tp, 1), wishes, kPageTokens);
    for (const int pp : {1, 2}) {
      const auto group = Group(tp, pp);
      for (const int drafts : {1, 3, 9}) {
        const Pace pace{.chunk = 1 + 3 * drafts,
                        .alternate = pp,
                        .page_seed = static_cast<uint64_t>(drafts),
                        .drafts = drafts,
                        .guess = &plain,
                        .draft_seed = static_cast<uint64_t>(tp)};
        EXPECT_EQ(Generate(*group, wishes, kPageTokens, pace), plain)
            << "tp = " << tp << ", pp = " << pp << ", drafts = " << drafts;
      }
    }
  }
}

// Replay: tokens fed again as generated ones leave the rest as it was (penalties, draws, bits).
TEST_P(Layouts, AReplayContinuesWithTheSameTokens) { ExpectReplayContinues(*Group(1, 2)); }

INSTANTIATE_TEST_SUITE_P(Models, Layouts, ::testing::ValuesIn(testing::LayoutModels()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace echelon
