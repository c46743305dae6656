#include "tests/support/worker/layout_models.h"

#include <cmath>

#include "common/check.h"
#include "common/random.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "tests/support/worker/naive_model.h"

namespace echelon::testing {

namespace {
// Log-probabilities of a float32 decoder against double. Every sub-block rounds its activations
// about 8 times in a row (norm, projections, rotation, softmax, output, residual), each by at most
// 2^-24 of values near 1 that the next norm scales back to 1: 5 layers x 2 x 8 x 6e-8 = 5e-6 in the
// normed stream where all errors agree. A logit sums 64 of those with weights of about 0.1 and
// mixed signs: 8 x 0.1 x 5e-6 = 4e-6. A log-probability near -8 is itself rounded by 5e-7. (Seen:
// below 1e-6.)
constexpr double kTolerance = 5e-6;

// The fast backend on quantised weights rounds a row's activations to 15 bits: half a step is
// 1/65532 of the greatest of 32 values, 3e-5 of a unit-variance row's rms and, of mixed sign over
// 64 inputs, the same of each output. Ten such roundings in a row, seen by a head that spreads
// logits over about 8, are 8e-4 where they agree. (Seen: 5e-4.)
constexpr double kQuantisedTolerance = 1.5e-3;

TinyModel Family(const std::string& family, int heads, int kv_heads, int layers = 3) {
  TinyModel tiny;
  tiny.family = family;
  tiny.n_heads = heads;
  tiny.n_kv_heads = kv_heads;
  tiny.n_layers = layers;
  tiny.vocab = 300;  // five units of 64, the last ragged: on tp = 4 the shares differ
  tiny.tied = family == "gemma3";
  tiny.format = TensorFormat::kBF16;
  return tiny;
}

}  // namespace

ModelSettings Schedule(const char* schedule, const char* ladder_layers, const char* pattern) {
  ModelSettings settings;
  settings.schedule = schedule;
  settings.ladder_layers = ladder_layers;
  settings.desync_pattern = pattern;
  return settings;
}

std::vector<LayoutModel> LayoutModels() {
  std::vector<LayoutModel> all;
  const auto add = [&](TinyModel tiny, ModelSettings schedule, std::string name) {
    all.push_back({std::move(tiny), schedule, std::move(name), "reference", kTolerance});
  };
  add(Family("llama", 4, 2), {}, "llama_standard");
  add(Family("llama", 9, 3), {}, "llama_nine_heads");
  add(Family("llama", 5, 5), Schedule("ladder", "", ""), "llama_ladder");
  add(Family("llama", 4, 2, 5), Schedule("ladder", "1,2,4", ""), "llama_partial_ladder");
  add(Family("llama", 4, 2), Schedule("ladder", "last:1", ""), "llama_last_ladder");
  add(Family("llama", 6, 3), Schedule("parallel", "", ""), "llama_parallel");
  add(Family("llama", 4, 2), Schedule("desync", "", "10"), "llama_desync_attention_kept");
  add(Family("llama", 6, 2, 4), Schedule("desync", "", "0110"), "llama_desync_mixed");
  add(Family("mistral", 4, 4), {}, "mistral_window");
  add(Family("qwen2", 4, 1), {}, "qwen2_biases");
  add(Family("qwen3", 4, 2), {}, "qwen3_head_norms");
  add(Family("gemma3", 4, 1), {}, "gemma3_post_norms");
  add(Family("gemma3", 4, 1, 4), Schedule("ladder", "", ""), "gemma3_ladder");
  // The fast backend, where the machine has it: the same invariances, on plain and quantised
  // weights.
  if (!MakeBackend({"cpu", 1, "auto"}).ok()) return all;
  const size_t reference = all.size();
  for (size_t i = 0; i < reference; i += 3) {
    LayoutModel setting = all[i];
    setting.name += "_cpu";
    setting.backend = "cpu";
    setting.tolerance = 2 * kTolerance;  // sums in float, of 64 to 96 terms
    all.push_back(setting);
  }
  for (const TensorFormat format : {TensorFormat::kQ4_1, TensorFormat::kQ8_0}) {
    LayoutModel setting{Family("llama", 9, 3), {}, StrCat("llama_", InfoOf(format).name, "_cpu")};
    setting.tiny.format = format;
    setting.backend = "cpu";
    setting.tolerance = kQuantisedTolerance;
    all.push_back(setting);
  }
  return all;
}

std::vector<int32_t> RandomIds(int count, uint64_t seed) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(Philox(seed, {uint32_t(i), 0, 0, 0})[0] % 263));
  }
  return ids;
}

Wish Scored() {
  Wish wish;
  wish.prompt = RandomIds(kPromptTokens, 5);
  wish.max_tokens = 6;
  wish.params.temperature = 0.8f;
  wish.params.top_k = 50;
  wish.params.top_p = 0.9f;
  wish.params.repetition_penalty = 1.1f;
  wish.params.seed = 99;
  wish.params.logprobs = 3;
  wish.params.prompt_logprobs = 8;
  return wish;
}

TinyGroups::TinyGroups(const LayoutModel& model)
    : backend_(model.backend),
      checkpoint_(TinyDummy(model.tiny, folder_.path())),
      model_(ModelFrom(checkpoint_->config(), model.schedule).value().model) {}

LocalGroupOptions TinyGroups::Options(const ParallelLayout& layout, int threads) const {
  LocalGroupOptions options;
  options.layout = layout;
  options.backend.name = backend_;
  options.backend.threads = threads;
  options.executor.page_tokens = kPageTokens;
  options.executor.kv_type = KvType::kF32;
  options.executor.context_max = 64;
  options.executor.sequences_max = 12;
  return options;
}

std::unique_ptr<LocalGroup> TinyGroups::Start(const LocalGroupOptions& options) const {
  auto group = LocalGroup::Start(*checkpoint_, model_, options);
  CHECK_MSG(group.ok(), group.ok() ? "" : group.error().message);
  return std::move(group).value();
}

double TinyGroups::WorstAgainstTwin(const Wish& wish, const Answer& answer, int tp) const {
  std::vector<int32_t> ids = wish.prompt;
  ids.insert(ids.end(), answer.tokens.begin(), answer.tokens.end());
  const Matrix expected = NaiveModel(*checkpoint_, model_).LogProbabilities(ids, tp);
  auto reported = answer.prompt_top;
  reported.insert(reported.end(), answer.top.begin(), answer.top.end());
  EXPECT_EQ(reported.size(), ids.size() - 1);
  double worst = 0.0;
  for (size_t p = 0; p < reported.size(); ++p) {
    EXPECT_GE(reported[p].size(), 3u);
    for (const TokenLogprob& t : reported[p]) {
      worst = std::max(worst, std::abs(t.logprob - expected[p][t.id]));
    }
  }
  return worst;
}

void LayoutTest::ExpectReplayContinues(LocalGroup& group) {
  const Wish wish = Scored();
  const Answer whole = Generate(group, {wish}, kPageTokens)[0];
  for (size_t lost_at = 1; lost_at < whole.tokens.size(); ++lost_at) {
    Wish again = wish;
    again.forced.assign(whole.tokens.begin(), whole.tokens.begin() + lost_at);
    again.max_tokens = wish.max_tokens - static_cast<int>(lost_at);
    const Answer rest = Generate(group, {again}, kPageTokens, {.chunk = 9})[0];
    EXPECT_EQ(rest.tokens,
              std::vector<int32_t>(whole.tokens.begin() + lost_at, whole.tokens.end()));
    EXPECT_EQ(rest.logits, std::vector<float>(whole.logits.begin() + lost_at, whole.logits.end()));
  }
}

}  // namespace echelon::testing
