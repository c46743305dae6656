// Whole tiny models of every family on the CUDA backend (emulated, or in gpu_test a GPU): the
// tokens and, within rounding, the logits of the reference backend; and the replay contract, bit
// for bit: chunks, company and forced replay change nothing.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

constexpr int kPageTokens = 8;

LocalGroupOptions OptionsFor(const std::string& backend, KvType kv_type = KvType::kF32) {
  LocalGroupOptions options;
  options.backend.name = backend;
  options.executor.page_tokens = kPageTokens;
  options.executor.context_max = 96;
  options.executor.sequences_max = 5;
  options.executor.kv_type = kv_type;
  options.executor.kv_memory_bytes = 16 << 20;
  return options;
}

std::vector<testing::Wish> Wishes() {
  std::vector<testing::Wish> wishes(3);
  for (int w = 0; w < 3; ++w) {
    for (int i = 0; i < 5 + 9 * w; ++i) wishes[w].prompt.push_back((i * 37 + w * 11) % 250 + 1);
    wishes[w].max_tokens = 8;
    wishes[w].params = testing::Greedy();
    wishes[w].params.logprobs = 4;
    wishes[w].begin_step = w;
  }
  return wishes;
}

struct FamilyCase {
  const char* family;
  TensorFormat format;
  KvType kv_type;    // all but kF32 go through the tensor cores
  double tolerance;  // of a logit: a key may round to the neighbouring float16 or code
};
class CudaModel : public ::testing::TestWithParam<FamilyCase> {
 protected:
  CudaModel() {
    TinyModel model;
    model.family = GetParam().family;
    model.format = GetParam().format;
    model.d_model = 96;  // 3 groups: a tile's tail
    model.head_dim = 32;
    if (model.family == "llamaLadder" || model.format == TensorFormat::kF32) {
      checkpoint_ = TinyDummy(model, folder_.path());
    } else {
      checkpoint_ = OpenCheckpoint(WriteTinyGguf(model, folder_ / "model.gguf")).value();
    }
  }
  void SetUp() override {
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
  }
  std::unique_ptr<LocalGroup> Start(const std::string& backend) {
    return LocalGroup::Start(*checkpoint_, checkpoint_->config(),
                             OptionsFor(backend, GetParam().kv_type))
        .value();
  }

  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_P(CudaModel, AnswersAsTheReferenceDoes) {
  const auto got = testing::Generate(*Start("cuda"), Wishes(), kPageTokens);
  const auto want = testing::Generate(*Start("reference"), Wishes(), kPageTokens);
  for (size_t w = 0; w < want.size(); ++w) {
    ASSERT_EQ(got[w].tokens, want[w].tokens) << w;
    for (size_t i = 0; i < want[w].logits.size(); ++i) {
      EXPECT_NEAR(got[w].logits[i], want[w].logits[i], GetParam().tolerance) << w << " " << i;
    }
  }
}

TEST_P(CudaModel, ChunksCompanyAndReplayChangeNoBit) {
  const auto group = Start("cuda");
  const auto want = testing::Generate(*group, Wishes(), kPageTokens);
  testing::Pace pace;
  pace.chunk = 3;
  pace.page_seed = 7;
  EXPECT_EQ(testing::Generate(*group, Wishes(), kPageTokens, pace), want);
  testing::Wish alone = Wishes()[1];
  EXPECT_EQ(testing::Generate(*group, {alone}, kPageTokens)[0], want[1]);
  alone.forced.assign(want[1].tokens.begin(), want[1].tokens.begin() + 5);
  alone.max_tokens = 3;
  const auto rest = testing::Generate(*group, {alone}, kPageTokens, pace)[0];
  EXPECT_EQ(rest.tokens, std::vector(want[1].tokens.begin() + 5, want[1].tokens.end()));
  EXPECT_EQ(rest.logits, std::vector(want[1].logits.begin() + 5, want[1].logits.end()));
}

// Streams of every kind of draw, one of which the host scores, with plans posted ahead and without.
TEST_P(CudaModel, PlansAheadChangeNothing) {
  const auto group = Start("cuda");
  std::vector<testing::Wish> wishes = Wishes();
  for (testing::Wish& wish : wishes) wish.params = {};
  wishes[0].params.top_k = 20;
  wishes[1].params.presence_penalty = 0.5f;
  wishes[1].max_tokens = 4;
  wishes[2].params.prompt_logprobs = 1;
  wishes.push_back(wishes[0]);
  wishes[3].params = testing::Greedy();
  wishes[3].max_tokens = 12;
  wishes.push_back(wishes[1]);
  wishes[4].params.repetition_penalty = 1.2f;
  wishes[4].params.frequency_penalty = 0.4f;
  wishes[4].params.logit_bias = {{7, 2.0f}, {9, -1.0f}};
  wishes[4].params.logprobs = 2;
  wishes[4].max_tokens = 20;  // alone at the end
  const auto want = testing::Generate(*group, wishes, kPageTokens);
  wishes[0].eos = want[0].tokens[5];
  auto ended = want;
  ended[0].tokens.resize(6);
  ended[0].logits.resize(6);
  testing::Pace pace;
  pace.plans_ahead = 2;
  pace.chunk = 5;
  EXPECT_EQ(testing::Generate(*group, wishes, kPageTokens, pace), ended);
}

INSTANTIATE_TEST_SUITE_P(
    cuda, CudaModel,
    ::testing::Values(FamilyCase{"llama", TensorFormat::kQ4_1, KvType::kF16, 2e-3},
                      FamilyCase{"qwen2", TensorFormat::kQ8_0, KvType::kF32, 2e-4},
                      FamilyCase{"qwen3", TensorFormat::kQ5_0, KvType::kQ8_0, 2e-2},
                      FamilyCase{"gemma3", TensorFormat::kQ4_0, KvType::kF16, 2e-3},
                      FamilyCase{"mistral", TensorFormat::kF32, KvType::kF32, 2e-4},
                      FamilyCase{"llamaLadder", TensorFormat::kF32, KvType::kF16, 2e-3}),
    [](const auto& info) { return std::string(info.param.family); });

}  // namespace
}  // namespace echelon
