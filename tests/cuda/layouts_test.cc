// Layouts of several ranks on CUDA devices (emulated: threads as ranks, each with a backend of its
// own; on a GPU they share it): the tokens and, within rounding, the logits of the reference
// backend in the same layout; chunks and company change no bit; a pipeline's stages may compute on
// different backends.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/run_setup.h"
#include "common/strings.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

constexpr int kPageTokens = 8;
constexpr double kTolerance = 2e-4;  // of a logit, cache in float32: sums in another order

struct LayoutCase {
  const char* name;
  int tp, pp, sp;
  const char* backends;  // one, or one a stage
  const char* family = "llama";
  TokenSplitMode split = TokenSplitMode::kOff;
};

LocalGroupOptions OptionsFor(const LayoutCase& of, const std::string& backends) {
  LocalGroupOptions options;
  options.layout.tp = of.tp;
  options.layout.pp = of.pp;
  options.layout.sp = of.sp;
  options.executor.page_tokens = kPageTokens;
  options.executor.context_max = 96;
  options.executor.sequences_max = 4;
  options.executor.kv_type = KvType::kF32;
  options.executor.kv_memory_bytes = 8 << 20;
  options.executor.token_split = of.split;
  options.make_backend = [layout = options.layout, backends](int rank, BackendOptions chosen) {
    chosen.name = BackendOfStage(backends, layout.PositionOf(rank).pp);
    return MakeBackend(chosen);
  };
  return options;
}

std::vector<testing::Wish> Wishes() {
  std::vector<testing::Wish> wishes(3);
  for (int w = 0; w < 3; ++w) {
    for (int i = 0; i < 6 + 11 * w; ++i) wishes[w].prompt.push_back((i * 37 + w * 11) % 250 + 1);
    wishes[w].max_tokens = 4;
    wishes[w].params = testing::Greedy();
    wishes[w].params.logprobs = 2;
    wishes[w].begin_step = w;
  }
  return wishes;
}

class CudaLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  void SetUp() override {
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
    TinyModel model;
    model.family = GetParam().family;
    model.d_model = 96;
    model.head_dim = 32;
    model.n_layers = 3;
    checkpoint_ = TinyDummy(model, folder_.path());
  }
  std::unique_ptr<LocalGroup> Start(const std::string& backends) {
    return LocalGroup::Start(*checkpoint_, checkpoint_->config(), OptionsFor(GetParam(), backends))
        .value();
  }

  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_P(CudaLayouts, AnswerAsTheReferenceDoesAndKeepEveryBit) {
  const auto group = Start(GetParam().backends);
  const auto got = testing::Generate(*group, Wishes(), kPageTokens);
  const auto want = testing::Generate(*Start("reference"), Wishes(), kPageTokens);
  for (size_t w = 0; w < want.size(); ++w) {
    ASSERT_EQ(got[w].tokens, want[w].tokens) << w;
    for (size_t i = 0; i < want[w].logits.size(); ++i) {
      EXPECT_NEAR(got[w].logits[i], want[w].logits[i], kTolerance) << w << " " << i;
    }
  }
  EXPECT_EQ(testing::Generate(*group, Wishes(), kPageTokens, {.chunk = 5, .page_seed = 7}), got);
}

INSTANTIATE_TEST_SUITE_P(
    cuda, CudaLayouts,
    ::testing::Values(LayoutCase{"tp2", 2, 1, 1, "cuda"}, LayoutCase{"tp3", 3, 1, 1, "cuda"},
                      LayoutCase{"ladder", 2, 1, 1, "cuda", "llamaLadder"},
                      LayoutCase{"ladderPipeline", 2, 2, 1, "cuda", "llamaLadder"},
                      LayoutCase{"split", 2, 1, 1, "cuda", "llama", TokenSplitMode::kOn},
                      LayoutCase{"ring", 1, 1, 2, "cuda"}, LayoutCase{"ring3", 1, 1, 3, "cuda"},
                      LayoutCase{"everything", 2, 2, 2, "cuda"},
                      LayoutCase{"mixedFromCpu", 1, 2, 1, "cpu,cuda"},
                      LayoutCase{"mixedToCpu", 1, 3, 1, "cuda,cuda,cpu"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace echelon
