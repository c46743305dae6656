// Plans from a peer that has gone mad: random, half right, half mutated. Whatever they say,
// CheckPlan answers with a Result, and what it accepts leaves tables that cannot be read out of
// bounds.

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "worker/batch_layout.h"

namespace echelon {
namespace {

constexpr PlanLimits kLimits{.step_tokens_max = 12,
                             .sequences_max = 4,
                             .pages = 16,
                             .page_tokens = 4,
                             .context_max = 20,
                             .vocab_size = 50};

class MadPeer {
 public:
  explicit MadPeer(uint64_t seed) : random_(seed) {}

  StepPlan Next(const SequenceTable& table) {
    StepPlan plan;
    plan.step_id = step_++;
    for (const auto& [id, state] : table) {
      if (Chance(10)) plan.released.push_back(id);
      if (Chance(50)) plan.sequences.push_back(Continue(id, state));
    }
    for (int i = Below(2); i >= 0 && Chance(60); --i) plan.sequences.push_back(Begin());
    if (Chance(40)) Mutate(plan);
    return plan;
  }

 private:
  bool Chance(int percent) { return Below(100) < percent; }
  int Below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  int32_t Wild() {
    const int32_t wild[] = {std::numeric_limits<int32_t>::min(), -2, -1, 0, 1, 15, 16, 49, 50,
                            std::numeric_limits<int32_t>::max()};
    return wild[Below(std::size(wild))];
  }
  SequenceStep Begin() {
    SequenceStep step;
    step.id = static_cast<SequenceId>(Below(8));
    step.first = true;
    step.prompt_tokens = 1 + Below(6);
    Fill(step, 0, 0);
    return step;
  }
  SequenceStep Continue(SequenceId id, const SequenceState& state) {
    SequenceStep step;
    step.id = id;
    step.start_position = state.length - Below(state.drafts + 1);
    Fill(step, step.start_position, static_cast<int>(state.pages.size()));
    if (state.sampled && Chance(50)) step.tokens[0] = kTokenFromLastStep;
    return step;
  }
  void Fill(SequenceStep& step, int length, int pages) {
    const int tokens = 1 + Below(5);
    for (int i = 0; i < tokens; ++i) step.tokens.push_back(Below(kLimits.vocab_size));
    while ((pages + static_cast<int>(step.new_pages.size())) * kLimits.page_tokens <
           length + tokens) {
      step.new_pages.push_back(Below(kLimits.pages));
    }
    step.sample = Chance(60);
    if (step.sample && Chance(50)) step.drafts = tokens - 1;
  }
  void Mutate(StepPlan& plan) {
    if (plan.sequences.empty() || Chance(10)) return plan.released.push_back(Below(10));
    SequenceStep& step = plan.sequences[Below(static_cast<int>(plan.sequences.size()))];
    switch (Below(10)) {
      case 0:
        step.id = static_cast<SequenceId>(Wild());
        break;
      case 1:
        step.start_position = Wild();
        break;
      case 2:
        step.tokens.clear();
        break;
      case 3:
        step.tokens.push_back(Wild());
        break;
      case 4:
        step.tokens[0] = Wild();
        break;
      case 5:
        step.new_pages.push_back(Wild());
        break;
      case 6:
        step.new_pages.clear();
        break;
      case 7:
        step.first = !step.first;
        break;
      case 8:
        step.drafts = Wild();
        break;
      case 9:
        plan.sequences.push_back(step);
        break;
    }
  }

  std::mt19937_64 random_;
  uint64_t step_ = 0;
};

void ExpectReadable(const BatchLayout& batch, size_t sequences) {
  ASSERT_EQ(batch.page_begin.size(), sequences + 1);
  ASSERT_EQ(batch.page_begin.back(), static_cast<int32_t>(batch.pages.size()));
  ASSERT_LE(batch.rows(), kLimits.step_tokens_max);
  for (const int32_t page : batch.pages) ASSERT_TRUE(page >= 0 && page < kLimits.pages);
  for (int64_t t = 0; t < batch.rows(); ++t) {
    const int32_t s = batch.sequences[t];
    const int32_t page = batch.positions[t] / kLimits.page_tokens;
    ASSERT_GE(batch.positions[t], 0);
    ASSERT_LT(batch.positions[t], kLimits.context_max);
    ASSERT_LT(batch.page_begin[s] + page, batch.page_begin[s + 1]);
    ASSERT_GE(batch.ids[t], kTokenFromLastStep);
    ASSERT_LT(batch.ids[t], kLimits.vocab_size);
  }
}

TEST(PlanFuzz, AcceptedPlansAreReadableAndTheRestIsRefused) {
  int accepted = 0, refused = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    MadPeer peer(seed);
    SequenceTable table;
    for (int step = 0; step < 500; ++step) {
      const StepPlan plan = peer.Next(table);
      const Status status = CheckPlan(plan, table, kLimits);
      if (!status.ok()) {
        ++refused;
        EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
        EXPECT_FALSE(status.error().message.empty());
        continue;
      }
      ++accepted;
      ApplyPlan(plan, table);
      ASSERT_LE(table.size(), static_cast<size_t>(kLimits.sequences_max));
      ExpectReadable(MakeBatch(plan, table, kLimits.page_tokens), plan.sequences.size());
    }
  }
  // Both happen often, or the peer is not mad enough to show anything.
  EXPECT_GT(accepted, 2000);
  EXPECT_GT(refused, 2000);
}

}  // namespace
}  // namespace echelon
