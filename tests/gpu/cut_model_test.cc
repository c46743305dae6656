// A real checkpoint, cut to its first layers so that it travels (tests/gpu/cut_gguf.py), on the
// CUDA backend beside the reference backend, which is the oracle here: every greedy token equal,
// but where the two best are closer than rounding (the margins rule), and log-probabilities within
// it.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

constexpr int kPageTokens = 16;
// Two backends that sum floats in different orders; the whole model's checks use the same bound.
constexpr double kLogprobTolerance = 1e-3;

std::string CutModel() {
  const char* path = std::getenv("ECHELON_GPU_MODEL");
  return path != nullptr ? path : "";
}

std::unique_ptr<LocalGroup> Start(const Checkpoint& checkpoint, const std::string& backend) {
  LocalGroupOptions options;
  options.backend = {.name = backend, .threads = 8};
  options.executor.page_tokens = kPageTokens;
  options.executor.context_max = 1024;
  options.executor.sequences_max = 4;
  options.executor.kv_type = KvType::kF32;
  options.executor.kv_memory_bytes = uint64_t{512} << 20;
  return LocalGroup::Start(checkpoint, checkpoint.config(), options).value();
}

TEST(CudaCutModel, GreedyTokensAndLogprobsAreTheReferences) {
  if (CutModel().empty()) GTEST_SKIP() << "ECHELON_GPU_MODEL names no checkpoint";
  const auto backend = MakeBackend({.name = "cuda"});
  if (!backend.ok()) GTEST_SKIP() << backend.error().message;
  const auto checkpoint = OpenCheckpoint(CutModel()).value();
  std::vector<testing::Wish> wishes(3);
  for (int w = 0; w < 3; ++w) {
    // Three lengths; the last crosses a split of attention.
    for (int i = 0; i < 20 + 130 * w; ++i) {
      wishes[w].prompt.push_back((i * i * 31 + w * 977 + i) % checkpoint->config().vocab_size);
    }
    wishes[w].max_tokens = 24;
    wishes[w].params = testing::Greedy();
    wishes[w].params.logprobs = 5;
  }
  const auto got = testing::Generate(*Start(*checkpoint, "cuda"), wishes, kPageTokens);
  const auto want = testing::Generate(*Start(*checkpoint, "reference"), wishes, kPageTokens);
  for (size_t w = 0; w < want.size(); ++w) {
    for (size_t i = 0; i < want[w].tokens.size(); ++i) {
      const auto& top = want[w].top[i];
      const double margin = top[0].logprob - top[1].logprob;
      if (got[w].tokens[i] != want[w].tokens[i]) {
        EXPECT_LT(margin, kLogprobTolerance) << w << " parts at " << i;
        break;  // from here on they continue different texts
      }
      EXPECT_NEAR(got[w].top[i][0].logprob, top[0].logprob, kLogprobTolerance) << w << " " << i;
    }
  }
}

}  // namespace
}  // namespace echelon
