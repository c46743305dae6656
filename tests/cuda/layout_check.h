#pragma once
// Layouts of several ranks on CUDA devices as one test body: the tokens and, within rounding, the
// logits of the reference backend in the same layout; chunks and company change no bit.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/run_setup.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"

namespace echelon::testing {

struct LayoutCase {
  const char* name;
  int tp, pp, sp;
  const char* backends = "cuda";  // one, or one a stage
  const char* family = "llama";
  TokenSplitMode split = TokenSplitMode::kOff;
};

// Every axis and their product, on devices alone.
inline std::vector<LayoutCase> DeviceLayouts() {
  return {{"tp2", 2, 1, 1},
          {"tp3", 3, 1, 1},
          {"ladder", 2, 1, 1, "cuda", "llamaLadder"},
          {"pipeline", 1, 2, 1},
          {"ladderPipeline", 2, 2, 1, "cuda", "llamaLadder"},
          {"split", 2, 1, 1, "cuda", "llama", TokenSplitMode::kOn},
          {"ring", 1, 1, 2},
          {"ring3", 1, 1, 3},
          {"everything", 2, 2, 2}};
}
inline std::string NameOfLayout(const ::testing::TestParamInfo<LayoutCase>& info) {
  return info.param.name;
}

inline LocalGroupOptions OptionsFor(const LayoutCase& of, const std::string& backends,
                                    int page_tokens) {
  LocalGroupOptions options;
  options.layout.tp = of.tp;
  options.layout.pp = of.pp;
  options.layout.sp = of.sp;
  options.executor.page_tokens = page_tokens;
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

inline std::vector<Wish> LayoutWishes() {
  std::vector<Wish> wishes(3);
  for (int w = 0; w < 3; ++w) {
    for (int i = 0; i < 6 + 11 * w; ++i) wishes[w].prompt.push_back((i * 37 + w * 11) % 250 + 1);
    wishes[w].max_tokens = 4;
    wishes[w].params = Greedy();
    wishes[w].params.logprobs = 2;
    wishes[w].begin_step = w;
  }
  return wishes;
}

// `comm`: how the tensors travel.
inline void CheckLayout(const LayoutCase& of, const StepCommOptions& comm) {
  constexpr int kPageTokens = 8;
  constexpr double kTolerance = 2e-4;  // of a logit, cache in float32: sums in another order
  ScratchFolder folder;
  TinyModel model;
  model.family = of.family;
  model.head_dim = 32;
  model.n_layers = 3;
  const auto checkpoint = TinyDummy(model, folder.path());
  const auto start = [&](const std::string& backends) {
    LocalGroupOptions options = OptionsFor(of, backends, kPageTokens);
    options.executor.comm = comm;
    return LocalGroup::Start(*checkpoint, checkpoint->config(), options).value();
  };
  const auto group = start(of.backends);
  const auto got = Generate(*group, LayoutWishes(), kPageTokens);
  const auto want = Generate(*start("reference"), LayoutWishes(), kPageTokens);
  for (size_t w = 0; w < want.size(); ++w) {
    ASSERT_EQ(got[w].tokens, want[w].tokens) << w;
    for (size_t i = 0; i < want[w].logits.size(); ++i) {
      EXPECT_NEAR(got[w].logits[i], want[w].logits[i], kTolerance) << w << " " << i;
    }
  }
  EXPECT_EQ(Generate(*group, LayoutWishes(), kPageTokens, {.chunk = 5, .page_seed = 7}), got);
}

}  // namespace echelon::testing
