// The equality matrix: every product of tp, pp and sp of up to 8 ranks (threads of this process) on
// tiny random models of every family and schedule, odd head counts among them. Each layout agrees
// with the naive twin in double precision (desync: emulated with as many tp ranks) within the
// tolerance derived for it, answers one rank's tokens, gives the same bits twice, and the same bits
// as with one stage.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>

#include "tests/support/worker/layout_models.h"

namespace echelon {
namespace {

using testing::Answer;
using testing::Generate;
using testing::Greedy;
using testing::kPageTokens;
using testing::LayoutTest;
using testing::RandomIds;
using testing::Scored;
using testing::Wish;

constexpr int kRanksMax = 8;

// One stage first: what the others of the same tp and sp are compared with.
std::vector<ParallelLayout> Products(const ModelConfig& model) {
  std::vector<ParallelLayout> all;
  for (int pp = 1; pp <= std::min(kRanksMax, model.n_layers()); ++pp) {
    for (int tp = 1; tp <= std::min(kRanksMax / pp, model.n_heads); ++tp) {
      for (int sp = 1; sp <= kRanksMax / pp / tp; ++sp) {
        ParallelLayout layout;
        layout.tp = tp;
        layout.pp = pp;
        layout.sp = sp;
        all.push_back(layout);
      }
    }
  }
  return all;
}

// Both of two answers may be off by the tolerance.
bool Thin(const std::vector<TokenLogprob>& top, double tolerance) {
  return top[0].logprob - top[1].logprob < 2 * tolerance;
}

class EqualityMatrix : public LayoutTest {};

TEST_P(EqualityMatrix, EveryProductOfUpToEightRanks) {
  const Wish scored = Scored();
  Wish greedy;
  greedy.prompt = RandomIds(17, 8);
  greedy.max_tokens = 12;
  greedy.params = Greedy();
  greedy.params.logprobs = 2;
  const bool desync = groups_.model().schedule == ScheduleKind::kDesync;
  std::map<std::pair<int, int>, std::vector<Answer>> one_stage;  // by tp, sp
  double worst = 0.0;
  const std::vector<ParallelLayout> products = Products(groups_.model());
  for (const ParallelLayout& layout : products) {
    const std::string name = std::to_string(layout.tp) + " x " + std::to_string(layout.pp) + " x " +
                             std::to_string(layout.sp);
    const auto group = Group(layout);
    const std::vector<Answer> answers = Generate(*group, {scored, greedy}, kPageTokens);
    EXPECT_EQ(Generate(*group, {scored, greedy}, kPageTokens), answers) << name << ", twice";
    const auto [of_shape, first] = one_stage.try_emplace({layout.tp, layout.sp}, answers);
    EXPECT_EQ(of_shape->second, answers) << name << " against one stage";
    if (!first) continue;
    worst = std::max(worst, groups_.WorstAgainstTwin(scored, answers[0], layout.tp));
    // Desync is another model on every tp: its one rank is sp = 1.
    const Answer& alone = one_stage.at({desync ? layout.tp : 1, 1})[1];
    for (size_t t = 0; t < alone.tokens.size(); ++t) {
      if (Thin(alone.top[t], GetParam().tolerance)) break;
      EXPECT_EQ(answers[1].tokens[t], alone.tokens[t]) << name << ", token " << t;
    }
  }
  EXPECT_LT(worst, GetParam().tolerance);
  std::printf("| %s | %zu | %.1e | %.1e |\n", GetParam().name.c_str(), products.size(), worst,
              GetParam().tolerance);
}

INSTANTIATE_TEST_SUITE_P(Models, EqualityMatrix, ::testing::ValuesIn(testing::LayoutModels()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace echelon
