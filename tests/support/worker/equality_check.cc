#include "tests/support/worker/equality_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "common/strings.h"

namespace echelon::testing {

namespace {

// Both of two answers may be off by the tolerance.
bool Thin(const std::vector<TokenLogprob>& top, double tolerance) {
  return top[0].logprob - top[1].logprob < 2 * tolerance;
}

}  // namespace

void CheckEquality(const LayoutModel& of, const TinyGroups& groups,
                   const std::vector<ParallelLayout>& layouts,
                   const std::function<std::unique_ptr<LocalGroup>(const ParallelLayout&)>& start) {
  const Wish scored = Scored();
  Wish greedy;
  greedy.prompt = RandomIds(17, 8);
  greedy.max_tokens = 12;
  greedy.params = Greedy();
  greedy.params.logprobs = 2;
  const bool desync = groups.model().schedule == ScheduleKind::kDesync;
  std::map<std::pair<int, int>, std::vector<Answer>> one_stage;  // by tp, sp
  double worst = 0.0;
  for (const ParallelLayout& layout : layouts) {
    const std::string name = StrCat(layout.tp, " x ", layout.pp, " x ", layout.sp);
    const auto group = start(layout);
    const std::vector<Answer> answers = Generate(*group, {scored, greedy}, kPageTokens);
    EXPECT_EQ(Generate(*group, {scored, greedy}, kPageTokens), answers) << name << ", twice";
    const auto [of_shape, first] = one_stage.try_emplace({layout.tp, layout.sp}, answers);
    EXPECT_EQ(of_shape->second, answers) << name << " against one stage";
    if (!first) continue;
    worst = std::max(worst, groups.WorstAgainstTwin(scored, answers[0], layout.tp));
    // Desync is another model on every tp: its one rank is sp = 1.
    const Answer& alone = one_stage.at({desync ? layout.tp : 1, 1})[1];
    for (size_t t = 0; t < alone.tokens.size(); ++t) {
      if (Thin(alone.top[t], of.tolerance)) break;
      EXPECT_EQ(answers[1].tokens[t], alone.tokens[t]) << name << ", token " << t;
    }
  }
  EXPECT_LT(worst, of.tolerance);
  std::printf("| %s | %zu | %.1e | %.1e |\n", of.name.c_str(), layouts.size(), worst, of.tolerance);
}

}  // namespace echelon::testing
