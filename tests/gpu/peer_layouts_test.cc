// Layouts of several ranks that exchange through each other's device memory, a thread for each: on
// GPUs of their own, or all on one, whose kernels wait for each other there.

#include <gtest/gtest.h>

#include "tests/cuda/layout_check.h"
#include "tests/cuda/matrix_check.h"

namespace echelon {
namespace {

using testing::LayoutCase;

// A rank's own stream, and one for each group it is in (tp, sp, both neighbours of a stage); a
// device has so many queues, and streams that share one could wait for each other.
constexpr int kStreamsOfRank = 5, kQueues = 32;
constexpr int64_t kWaitMs = 5'000;

class PeerLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  void SetUp() override {
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
    const int ranks = GetParam().tp * GetParam().pp * GetParam().sp;
    if (ranks * kStreamsOfRank > kQueues && !MakeBackend({.name = "cuda", .device = 1}).ok()) {
      GTEST_SKIP() << ranks << " ranks have more streams than one device has queues";
    }
  }
};

TEST_P(PeerLayouts, AnswerAsTheReferenceDoes) {
  testing::CheckLayout(GetParam(), {.kind = "peer", .wait_ms = kWaitMs});
}

INSTANTIATE_TEST_SUITE_P(cuda, PeerLayouts, ::testing::ValuesIn(testing::DeviceLayouts()),
                         testing::NameOfLayout);

// Up to four ranks.
class PeerLayoutsMatrix : public ::testing::TestWithParam<testing::MatrixRow> {
 protected:
  void SetUp() override {
    const auto backend = MakeBackend({.name = "cuda"});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
  }
};

TEST_P(PeerLayoutsMatrix, LayoutsThatDiffer) {
  testing::CheckMatrixRow(GetParam(), {.kind = "peer", .wait_ms = kWaitMs});
}

INSTANTIATE_TEST_SUITE_P(cuda, PeerLayoutsMatrix, ::testing::ValuesIn(testing::MatrixRows()),
                         testing::NameOfRow);

}  // namespace
}  // namespace echelon
