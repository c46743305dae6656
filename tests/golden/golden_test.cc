// The greedy cases of the oracle (tests/golden/*.json: float32 from the de-quantised checkpoints),
// run on the reference backend and, where there is a GPU, on the CUDA backend, which sums floats of
// the same weights: every token equal, log-probabilities within the figures' rounding.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "common/json.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "tests/support/test_models.h"
#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

constexpr int kPageTokens = 16;
// The oracle computes in float32 with another order of sums than ours; its own check against a
// second implementation differs by 6e-5 in logits. Its log-probabilities are rounded to 5 digits.
constexpr double kLogprobTolerance = 1e-3;

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<int32_t> Ids(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.as_array()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

ModelConfig WithSchedule(const ModelConfig& model, const Json& spec) {
  const Json* schedule = spec.Find("schedule");
  if (schedule == nullptr) return model;
  std::string layers;
  if (const Json* listed = spec.Find("ladder_layers")) {
    std::vector<std::string> words;
    for (const int32_t layer : Ids(*listed)) words.push_back(StrCat(layer));
    layers = Join(words, ",");
  }
  ModelSettings settings;
  settings.schedule = schedule->as_string();
  settings.ladder_layers = layers;
  return ModelFrom(model, settings).value().model;
}

struct Case {
  std::string model;   // file
  std::string golden;  // file
  std::string name;
  int tp = 1, pp = 1;
  std::string backend = "reference";
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class GoldenTest : public ::testing::TestWithParam<Case> {};

TEST_P(GoldenTest, GreedyTokensAndLogprobs) {
  const std::string path = TestModelPath(GetParam().model);
  if (path.empty()) GTEST_SKIP() << GetParam().model << " is not in the folder of test models";
  if (const auto backend = MakeBackend({.name = GetParam().backend}); !backend.ok()) {
    ASSERT_EQ(backend.error().code, ErrorCode::kUnsupported) << backend.error().message;
    GTEST_SKIP() << backend.error().message;
  }
  const char* folder = std::getenv("ECHELON_GOLDEN");  // where the program was carried elsewhere
  const std::string golden = StrCat(folder != nullptr ? folder : ECHELON_SOURCE_DIR "/tests/golden",
                                    "/", GetParam().golden);
  const Json oracle = Json::Parse(ReadText(golden), golden).value();
  const Json* spec = nullptr;
  for (const Json& one : oracle.Find("greedy")->as_array()) {
    if (one.Find("name")->as_string() == GetParam().name) spec = &one;
  }
  ASSERT_NE(spec, nullptr);

  const auto checkpoint = OpenCheckpoint(path).value();
  const ModelConfig model = WithSchedule(checkpoint->config(), *spec);
  LocalGroupOptions options;
  options.backend.name = GetParam().backend;
  options.backend.threads = GetParam().tp * GetParam().pp == 1 ? 2 : 1;
  options.layout.tp = GetParam().tp;
  options.layout.pp = GetParam().pp;
  options.executor.context_max = 512;
  options.executor.sequences_max = 1;
  options.executor.page_tokens = kPageTokens;
  options.executor.kv_type = KvType::kF32;
  const auto group = LocalGroup::Start(*checkpoint, model, options).value();

  const std::vector<int32_t> expected = Ids(*spec->Find("token_ids"));
  const auto& steps = spec->Find("steps")->as_array();
  testing::Wish wish;
  wish.prompt = Ids(*spec->Find("prompt_ids"));
  wish.max_tokens = static_cast<int>(expected.size());
  wish.params = testing::Greedy();
  wish.params.logprobs = 5;
  const auto answers = testing::Generate(*group, {wish}, kPageTokens, {.plans_ahead = 1});
  EXPECT_EQ(answers[0].tokens, expected);

  double worst = 0.0;
  for (size_t i = 0; i < expected.size() && answers[0].tokens[i] == expected[i]; ++i) {
    for (const Json& pair : steps[i].Find("top")->as_array()) {
      for (const TokenLogprob& ours : answers[0].top[i]) {
        if (ours.id != pair.as_array()[0].as_int()) continue;
        worst = std::max(worst, std::abs(ours.logprob - pair.as_array()[1].as_double()));
      }
    }
  }
  RecordProperty("worst_logprob_difference", std::to_string(worst));
  EXPECT_LT(worst, kLogprobTolerance);
}

constexpr const char* kSmolGolden = "smollm2-135m.json";
constexpr const char* kGemmaGolden = "gemma3-270m.json";

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const char* name :
       {"chat-capital", "chat-list", "chat-system", "chat-multi-turn", "raw-story", "raw-code",
        "raw-unicode", "raw-numbers", "ladder-all", "ladder-last-10", "parallel"}) {
    cases.push_back({kSmolModel, kSmolGolden, name});
  }
  // Several ranks, on cases whose margins (0.06 to 0.28) no other order of sums can cross.
  cases.push_back({kSmolModel, kSmolGolden, "raw-numbers", 3, 1});  // 9 heads, 3 KV heads
  cases.push_back({kSmolModel, kSmolGolden, "ladder-last-10", 2, 2});
  cases.push_back({kGemmaModel, kGemmaGolden, "story", 4, 1});  // one KV head on four ranks
  for (const char* name : {"capital", "story", "code", "unicode"}) {
    cases.push_back({kGemmaModel, kGemmaGolden, name});
  }
  const std::vector<Case> on_the_host = cases;
  for (Case one : on_the_host) {
    if (one.tp * one.pp > 1) continue;
    one.backend = "cuda";
    cases.push_back(one);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Oracle, GoldenTest, ::testing::ValuesIn(AllCases()), [](const auto& info) {
  std::string name = StrCat(info.param.model == kSmolModel ? "smol_" : "gemma_", info.param.name);
  if (info.param.tp * info.param.pp > 1) {
    name += StrCat("_tp", info.param.tp, "_pp", info.param.pp);
  }
  if (info.param.backend == "cuda") name += "_cuda";
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace echelon
