// Layouts of several ranks on CUDA devices (emulated: threads as ranks, each with a backend of its
// own; on a GPU machine they share a GPU, or have one each), and pipelines whose stages compute on
// different backends. Tensors travel through the hosts' memory.

#include <gtest/gtest.h>

#include <string>

#include "tests/cuda/layout_check.h"

namespace echelon {
namespace {

using testing::CheckLayout;
using testing::LayoutCase;

class CudaLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  void SetUp() override {
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
  }
};

TEST_P(CudaLayouts, AnswerAsTheReferenceDoes) { CheckLayout(GetParam(), {.kind = "staged"}); }

INSTANTIATE_TEST_SUITE_P(
    cuda, CudaLayouts,
    ::testing::Values(LayoutCase{"tp2", 2, 1, 1}, LayoutCase{"tp3", 3, 1, 1},
                      LayoutCase{"ladder", 2, 1, 1, "cuda", "llamaLadder"},
                      LayoutCase{"ladderPipeline", 2, 2, 1, "cuda", "llamaLadder"},
                      LayoutCase{"split", 2, 1, 1, "cuda", "llama", TokenSplitMode::kOn},
                      LayoutCase{"ring", 1, 1, 2}, LayoutCase{"ring3", 1, 1, 3},
                      LayoutCase{"everything", 2, 2, 2},
                      LayoutCase{"mixedFromCpu", 1, 2, 1, "cpu,cuda"},
                      LayoutCase{"mixedToCpu", 1, 3, 1, "cuda,cuda,cpu"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace echelon
