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
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
    const LayoutCase& of = GetParam();
    if ((*backend)->RanksOnMemory(of.tp * of.pp * of.sp) > 1) {
      GTEST_SKIP() << "this machine has fewer than " << of.tp * of.pp * of.sp << " GPUs";
    }
  }
};

TEST_P(NcclLayouts, AnswerAsTheReferenceDoes) {
  testing::CheckLayout(GetParam(), {.kind = "nccl"});
}

INSTANTIATE_TEST_SUITE_P(cuda, NcclLayouts, ::testing::ValuesIn(testing::DeviceLayouts()),
                         testing::NameOfLayout);

}  // namespace
}  // namespace echelon
