#include "tests/support/worker/device_layouts.h"

#include <cmath>

#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon::testing {

namespace {

constexpr int kPageTokens = 8;
constexpr double kTolerance = 2e-4;  // of a logit, cache in float32: sums in another order

std::vector<Wish> Wishes() {
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

}  // namespace

std::vector<LayoutCase> DeviceLayouts() {
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

LayoutInput::LayoutInput(const LayoutCase& of) {
  TinyModel model;
  model.family = of.family;
  model.head_dim = 32;
  model.n_layers = 3;
  checkpoint_ = TinyDummy(model, folder_.path());
}

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

std::vector<Answer> ReferenceAnswers(const LayoutCase& of, const LayoutInput& input) {
  const auto group =
      LocalGroup::Start(input.checkpoint(), input.model(), OptionsFor(of, "reference")).value();
  return Generate(*group, Wishes(), kPageTokens);
}

std::vector<std::string> CheckAnswers(PlanRunner& runner, const std::vector<Answer>* want) {
  std::vector<std::string> wrong;
  const std::vector<Answer> got = Generate(runner, Wishes(), kPageTokens);
  for (size_t w = 0; want != nullptr && w < want->size(); ++w) {
    if (got[w].tokens != (*want)[w].tokens) {
      wrong.push_back(StrCat("wish ", w, ": other tokens than the reference"));
      continue;
    }
    for (size_t i = 0; i < got[w].logits.size(); ++i) {
      const double error = std::fabs(got[w].logits[i] - (*want)[w].logits[i]);
      if (error <= kTolerance) continue;
      wrong.push_back(StrCat("wish ", w, ", token ", i, ": its logit is off by ", error));
    }
  }
  if (Generate(runner, Wishes(), kPageTokens, {.chunk = 5, .page_seed = 7}) != got) {
    wrong.push_back("other chunks and pages: other bits");
  }
  return wrong;
}

}  // namespace echelon::testing
