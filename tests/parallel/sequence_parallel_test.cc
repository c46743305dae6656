// Within one layout of sequence-parallel ranks (threads) a token's bits depend on its sequence
// alone: not on chunks, company, threads, guessed tokens or what was passed between the ranks.
// (That every layout computes the same model: equality_matrix_test.)

#include <gtest/gtest.h>

#include "tests/support/worker/layout_models.h"

namespace echelon {
namespace {

using testing::Answer;
using testing::Generate;
using testing::kPageTokens;
using testing::LayoutTest;
using testing::Pace;
using testing::RandomIds;
using testing::Scored;
using testing::Wish;

class SequenceLayouts : public LayoutTest {};

ParallelLayout Layout(int tp, int pp, int sp) {
  ParallelLayout layout;
  layout.tp = tp;
  layout.pp = pp;
  layout.sp = sp;
  return layout;
}

// Chunks change who passes what; company changes where pages lie and who computes the decodes (few:
// all ranks; more than kCopiedRowsMax: the ranks that keep their pages).
TEST_P(SequenceLayouts, CompanyAndChunksKeepEveryBit) {
  const Wish wish = Scored();
  for (const ParallelLayout& layout : {Layout(1, 1, 3), Layout(2, 2, 2)}) {
    const auto group = Group(layout);
    const auto alone = Generate(*group, {wish}, kPageTokens);
    EXPECT_EQ(Generate(*group, {wish}, kPageTokens), alone) << "again";
    for (const int chunk : {1, 2, 7}) {
      EXPECT_EQ(Generate(*group, {wish}, kPageTokens, {.chunk = chunk}), alone) << chunk;
    }
    std::vector<Wish> company = {wish};
    for (int i = 0; i < 10; ++i) {
      Wish other;
      other.prompt = RandomIds(3 + 3 * i, 70 + i);
      other.params.seed = i;
      other.begin_step = i % 4;
      other.max_tokens = 6 + i;
      company.insert(i % 2 == 0 ? company.begin() : company.end(), other);
    }
    const Pace mixed{.chunk = 6, .plans_ahead = 2, .alternate = 2, .page_seed = 3};
    EXPECT_EQ(Generate(*group, company, kPageTokens, mixed)[5], alone[0]);
    EXPECT_EQ(Generate(*Group(layout, 2), {wish}, kPageTokens), alone) << "2 threads";
  }
}

TEST_P(SequenceLayouts, PipelineStagesKeepEveryBit) {
  const Wish wish = Scored();
  const auto one = Generate(*Group(Layout(1, 1, 2)), {wish}, kPageTokens);
  for (const int pp : {2, 3}) {
    EXPECT_EQ(
        Generate(*Group(Layout(1, pp, 2)), {wish}, kPageTokens, {.chunk = 5, .plans_ahead = pp}),
        one)
        << pp;
  }
}

// Rows of guesses lie on several ranks, and their keys are overwritten where a guess was wrong.
TEST_P(SequenceLayouts, SpeculationKeepsEveryBit) {
  std::vector<Wish> wishes(2);
  for (size_t i = 0; i < wishes.size(); ++i) {
    wishes[i].prompt = RandomIds(3 + 10 * static_cast<int>(i), 40 + i);
    wishes[i].max_tokens = 14;
    wishes[i].params.seed = i;
    wishes[i].params.logprobs = 2;
  }
  wishes[0].params.temperature = 0.0f;
  wishes[1].params.top_p = 0.8f;
  for (const ParallelLayout& layout : {Layout(1, 1, 3), Layout(2, 1, 2)}) {
    const auto group = Group(layout);
    const auto plain = Generate(*group, wishes, kPageTokens);
    for (const int drafts : {1, 3, 9}) {
      const Pace pace{.chunk = 1 + 3 * drafts,
                      .drafts = drafts,
                      .guess = &plain,
                      .draft_seed = static_cast<uint64_t>(drafts)};
      EXPECT_EQ(Generate(*group, wishes, kPageTokens, pace), plain) << drafts << " drafts";
    }
  }
}

// Ten decodes and chunks: parts whose decodes all ranks compute, where the whole step shares them
// out.
TEST_P(SequenceLayouts, TokenSplitKeepsEveryBit) {
  std::vector<Wish> company = {Scored()};
  for (int i = 0; i < 10; ++i) {
    Wish other;
    other.prompt = RandomIds(2 + 2 * i, 90 + i);
    other.params.seed = i;
    other.begin_step = i % 3;
    other.max_tokens = 5;
    company.push_back(other);
  }
  for (const ParallelLayout& layout : {Layout(1, 1, 2), Layout(2, 1, 2), Layout(2, 2, 2)}) {
    LocalGroupOptions options = groups_.Options(layout);
    const Pace pace{.chunk = 9};
    const auto whole = Generate(*groups_.Start(options), company, kPageTokens, pace);
    options.executor.token_split = TokenSplitMode::kOn;
    EXPECT_EQ(Generate(*groups_.Start(options), company, kPageTokens, pace), whole)
        << layout.tp << " x " << layout.pp;
  }
}

TEST_P(SequenceLayouts, AReplayContinuesWithTheSameTokens) {
  ExpectReplayContinues(*Group(Layout(1, 1, 2)));
}

INSTANTIATE_TEST_SUITE_P(Models, SequenceLayouts, ::testing::ValuesIn(testing::LayoutModels()),
                         [](const auto& info) { return info.param.name; });

// Stages whose layers have different windows cut a step at the same row. The first decode's 230
// positions weigh about three rows in layers that see them all, nothing in layers with a window: by
// its own layers alone one stage would cut 18 decodes into 9 and 9, which the ranks share out, the
// other into 8, which all ranks compute (kCopiedRowsMax), and 10.
TEST(SequenceStages, CutAStepAlikeWhateverTheirWindows) {
  testing::LayoutModel model = testing::LayoutModels()[0];
  model.tiny.family = "gemma3";
  model.tiny.n_layers = 2;
  model.tiny.extra.Set("sliding_window_pattern", 2);
  const testing::TinyGroups groups(model);
  ASSERT_NE(groups.model().layers[0].window, groups.model().layers[1].window);
  std::vector<Wish> company(18);
  for (size_t i = 0; i < company.size(); ++i) {
    company[i].prompt = RandomIds(i == 0 ? 230 : 3, 60 + i);
    company[i].max_tokens = 4;
    company[i].params.seed = i;
  }
  LocalGroupOptions options = groups.Options(Layout(1, 2, 2));
  options.executor.context_max = 256;
  options.executor.sequences_max = static_cast<int>(company.size());
  const Pace pace{.chunk = 230};
  const auto whole = Generate(*groups.Start(options), company, kPageTokens, pace);
  options.executor.token_split = TokenSplitMode::kOn;
  EXPECT_EQ(Generate(*groups.Start(options), company, kPageTokens, pace), whole);
}

// A context of several messages round the ring: keys and values in blocks of one split, against
// queries (small chunks), against one message.
void ExpectMessagesKeepEveryBit(KvType type) {
  testing::LayoutModel model = testing::LayoutModels()[0];
  model.tiny.context = 1500;
  if (MakeBackend({"cpu", 1, "auto"}).ok()) model.backend = "cpu";  // else slow, not wrong
  const testing::TinyGroups groups(model);
  Wish wish;
  wish.prompt = RandomIds(1400, 3);
  wish.max_tokens = 3;
  LocalGroupOptions options = groups.Options(Layout(1, 1, 2));
  options.executor.kv_type = type;
  options.executor.context_max = 1500;
  options.executor.step_tokens_max = 1500;
  const auto whole = Generate(*groups.Start(options), {wish}, kPageTokens, {.chunk = 1500});
  options.executor.ring_tokens = 1;
  const auto group = groups.Start(options);
  for (const int chunk : {1500, 700, 30}) {
    EXPECT_EQ(Generate(*group, {wish}, kPageTokens, {.chunk = chunk}), whole) << chunk;
  }
}

// A window over several messages round the ring: what it hides lies in the first ones, wholly or in
// part. Every position against the twin.
TEST(LongSequence, AWindowOverMessagesAgreesWithTheTwin) {
  testing::LayoutModel model = testing::LayoutModels()[0];
  model.tiny.family = "mistral";
  model.tiny.context = 1500;
  model.tiny.window = 600;
  const bool fast = MakeBackend({"cpu", 1, "auto"}).ok();
  if (fast) model.backend = "cpu";
  const testing::TinyGroups groups(model);
  Wish wish = Scored();
  wish.prompt = RandomIds(1400, 3);
  LocalGroupOptions options = groups.Options(Layout(1, 1, 3));
  options.executor.context_max = 1500;
  options.executor.step_tokens_max = 1500;
  options.executor.ring_tokens = 1;
  const auto group = groups.Start(options);
  const auto whole = Generate(*group, {wish}, kPageTokens, {.chunk = 1500});
  EXPECT_LT(groups.WorstAgainstTwin(wish, whole[0], 1), (fast ? 2 : 1) * model.tolerance);
  EXPECT_EQ(Generate(*group, {wish}, kPageTokens, {.chunk = 700}), whole);
}

TEST(LongSequence, MessagesAndPassingKeepEveryBit) { ExpectMessagesKeepEveryBit(KvType::kF32); }
TEST(LongSequence, SoTheyDoOverCodes) { ExpectMessagesKeepEveryBit(KvType::kQ8_0); }

}  // namespace
}  // namespace echelon
