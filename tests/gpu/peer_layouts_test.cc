// Layouts of several ranks that exchange through each other's device memory, a thread for each: on
// GPUs of their own, or all on one, whose kernels wait for each other there.

#include <gtest/gtest.h>

#include "tests/cuda/layout_check.h"

namespace echelon {
namespace {

using testing::LayoutCase;

class PeerLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  void SetUp() override {
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
  }
};

TEST_P(PeerLayouts, AnswerAsTheReferenceDoes) {
  testing::CheckLayout(GetParam(), {.kind = "peer"});
}

INSTANTIATE_TEST_SUITE_P(cuda, PeerLayouts, ::testing::ValuesIn(testing::DeviceLayouts()),
                         testing::NameOfLayout);

}  // namespace
}  // namespace echelon
