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

INSTANTIATE_TEST_SUITE_P(cuda, CudaLayouts, ::testing::ValuesIn(testing::DeviceLayouts()),
                         testing::NameOfLayout);
INSTANTIATE_TEST_SUITE_P(cuda_mixed, CudaLayouts,
                         ::testing::Values(LayoutCase{"fromCpu", 1, 2, 1, "cpu,cuda"},
                                           LayoutCase{"toCpu", 1, 3, 1, "cuda,cuda,cpu"}),
                         testing::NameOfLayout);

}  // namespace
}  // namespace echelon
