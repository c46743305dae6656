// Every layout of ranks computes the same model: tp x pp x schedule over threads as ranks, on tiny
// random models of every family, against a naive twin in double precision and against each other.

#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"
#include "tests/support/worker/naive_model.h"

namespace echelon {
namespace {

using testing::Answer;
using testing::Generate;
using testing::NaiveModel;
using testing::Pace;
using testing::Wish;

constexpr int kPageTokens = 4;
constexpr int kPromptTokens = 23;

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

struct Setting {
  TinyModel tiny;
  ModelSettings schedule;
  std::string name;
  std::string backend = "reference";
  double tolerance = kTolerance;
};
void PrintTo(const Setting& s, std::ostream* out) { *out << s.name; }

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

ModelSettings Schedule(const char* schedule, const char* ladder_layers, const char* pattern) {
  ModelSettings settings;
  settings.schedule = schedule;
  settings.ladder_layers = ladder_layers;
  settings.desync_pattern = pattern;
  return settings;
}

std::vector<Setting> Settings() {
  std::vector<Setting> all;
  const auto add = [&](TinyModel tiny, ModelSettings schedule, std::string name) {
    all.push_back({std::move(tiny), schedule, std::move(name)});
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
    Setting setting = all[i];
    setting.name += "_cpu";
    setting.backend = "cpu";
    setting.tolerance = 2 * kTolerance;  // sums in float, of 64 to 96 terms
    all.push_back(setting);
  }
  for (const TensorFormat format : {TensorFormat::kQ4_1, TensorFormat::kQ8_0}) {
    Setting setting{Family("llama", 9, 3), {}, StrCat("llama_", InfoOf(format).name, "_cpu")};
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

class Layouts : public ::testing::TestWithParam<Setting> {
 protected:
  Layouts()
      : checkpoint_(TinyDummy(GetParam().tiny, folder_.path())),
        model_(ModelFrom(checkpoint_->config(), GetParam().schedule).value().model) {}

  std::unique_ptr<LocalGroup> Group(int tp, int pp, int threads = 1) {
    LocalGroupOptions options;
    options.layout.tp = tp;
    options.layout.pp = pp;
    options.backend.name = GetParam().backend;
    options.backend.threads = threads;
    options.executor.page_tokens = kPageTokens;
    options.executor.kv_type = KvType::kF32;
    options.executor.context_max = 64;
    options.executor.sequences_max = 8;
    auto group = LocalGroup::Start(*checkpoint_, model_, options);
    CHECK_MSG(group.ok(), group.ok() ? "" : group.error().message);
    return std::move(group).value();
  }

  // A prompt whose every position is scored, then tokens drawn with all the trimmings.
  static Wish Scored() {
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

  // The greatest difference of any log-probability the answer reports to the twin's.
  double WorstAgainstTwin(const Wish& wish, const Answer& answer, int tp) const {
    std::vector<int32_t> ids = wish.prompt;
    ids.insert(ids.end(), answer.tokens.begin(), answer.tokens.end());
    const testing::Matrix expected = NaiveModel(*checkpoint_, model_).LogProbabilities(ids, tp);
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

  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig model_;
};

TEST_P(Layouts, AgreeWithTheTwin) {
  const Wish wish = Scored();
  for (const int tp : {1, 2, 3, 4}) {
    const auto group = Group(tp, 1);
    const auto answers = Generate(*group, {wish}, kPageTokens);
    EXPECT_LT(WorstAgainstTwin(wish, answers[0], tp), GetParam().tolerance) << "tp = " << tp;
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
  const NaiveModel twin(*checkpoint_, model_);
  if (model_.schedule != ScheduleKind::kStandard) {
    const ModelConfig standard =
        ModelFrom(checkpoint_->config(), Schedule("standard", "", "")).value().model;
    const int tp = model_.schedule == ScheduleKind::kDesync ? 2 : 1;
    const double away = distance(NaiveModel(*checkpoint_, standard).LogProbabilities(ids),
                                 twin.LogProbabilities(ids, tp));
    EXPECT_GT(away, 0.1);
  }
  if (model_.schedule == ScheduleKind::kDesync) {
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
TEST_P(Layouts, AReplayContinuesWithTheSameTokens) {
  const Wish wish = Scored();
  const auto group = Group(1, 2);
  const Answer whole = Generate(*group, {wish}, kPageTokens)[0];
  for (size_t lost_at = 1; lost_at < whole.tokens.size(); ++lost_at) {
    Wish again = wish;
    again.forced.assign(whole.tokens.begin(), whole.tokens.begin() + lost_at);
    again.max_tokens = wish.max_tokens - static_cast<int>(lost_at);
    const Answer rest = Generate(*group, {again}, kPageTokens, {.chunk = 9})[0];
    EXPECT_EQ(rest.tokens,
              std::vector<int32_t>(whole.tokens.begin() + lost_at, whole.tokens.end()));
    EXPECT_EQ(rest.logits, std::vector<float>(whole.logits.begin() + lost_at, whole.logits.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Layouts, ::testing::ValuesIn(Settings()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace echelon
