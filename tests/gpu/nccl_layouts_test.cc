// Layouts of several GPUs of one machine, a thread and a GPU for each rank, over NCCL itself.

#include <gtest/gtest.h>

#include <string>

#include "tests/cuda/layout_check.h"

namespace echelon {
namespace {

using testing::LayoutCase;

class NcclLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  void SetUp() override {
    const int ranks = GetParam().tp * GetParam().pp * GetParam().sp;
    const auto last = MakeBackend({.name = "cuda", .device = ranks - 1});
    if (!last.ok()) GTEST_SKIP() << ranks << " GPUs are needed: " << last.error().message;
  }
};

TEST_P(NcclLayouts, AnswerAsTheReferenceDoes) {
  testing::CheckLayout(GetParam(), {.kind = "nccl"});
}

INSTANTIATE_TEST_SUITE_P(cuda, NcclLayouts, ::testing::ValuesIn(testing::DeviceLayouts()),
                         testing::NameOfLayout);

}  // namespace
}  // namespace echelon
