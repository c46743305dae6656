// Steps that repeat: a graph is captured once for each bucket of sizes, launched again with other
// host arrays, and gives the bits of ops enqueued one by one; an error in capturing is the
// device's.

#include "kernels/cuda/recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "kernels/cuda/device.h"
#include "tests/cuda/watched_runtime.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using ::testing::FloatNear;
using ::testing::Pointwise;

TEST(CudaRecorder, BucketsOfRows) {
  const std::pair<int64_t, int64_t> cases[] = {{1, 1},   {2, 2},   {3, 4},    {5, 8},
                                               {8, 8},   {9, 16},  {17, 24},  {57, 64},
                                               {64, 64}, {65, 65}, {512, 512}};
  for (const auto& [rows, want] : cases) EXPECT_EQ(cuda::RepeatRows(rows), want);
}

class CudaRepeat : public ::testing::Test {
 protected:
  // Gathers rows of a table by way of Repeat; they are what is in the host array each time.
  std::vector<float> Gather(const std::vector<int32_t>& rows) {
    const auto count = static_cast<int64_t>(rows.size());
    const Tensor to = out_.tensor().Rows(0, count);
    backend_->Repeat(count, [&] {
      backend_->GatherRows(table_.tensor(), rows, to);
      backend_->AddResidual(to, to, 1.0f, nullptr, 0.0f);
    });
    backend_->Synchronize();
    auto got = out_.Read();
    got.resize(static_cast<size_t>(count * 3));
    return got;
  }
  std::vector<float> Twice(const std::vector<int32_t>& rows) {
    std::vector<float> want;
    for (const int32_t row : rows) {
      for (int i = 0; i < 3; ++i) want.push_back(2.0f * values_[row * 3 + i]);
    }
    return want;
  }

  std::unique_ptr<Backend> backend_ = test::MustMake("cuda", 1);
  const std::vector<float> values_ = test::RandomFloats(100 * 3, 1);
  test::FloatBuffer table_{*backend_, 100, 3, values_}, out_{*backend_, 100, 3};
};

TEST_F(CudaRepeat, OneGraphServesOtherArraysOfTheSameSizes) {
  const size_t before = emulation::GraphsCaptured();
  EXPECT_EQ(Gather({5, 7}), Twice({5, 7}));
  EXPECT_EQ(emulation::GraphsCaptured(), before + 1);
  EXPECT_EQ(Gather({99, 0}), Twice({99, 0}));
  EXPECT_EQ(emulation::GraphsCaptured(), before + 1);
  EXPECT_EQ(Gather({1, 2, 3}), Twice({1, 2, 3}));
  EXPECT_EQ(emulation::GraphsCaptured(), before + 2);
  EXPECT_EQ(Gather({3, 4}), Twice({3, 4}));
  EXPECT_EQ(emulation::GraphsCaptured(), before + 2);
}

TEST_F(CudaRepeat, ManyRowsAreNotRecorded) {
  const size_t before = emulation::GraphsCaptured();
  const std::vector<int32_t> rows(65, 8);
  EXPECT_EQ(Gather(rows), Twice(rows));
  EXPECT_EQ(emulation::GraphsCaptured(), before);
}

// More kinds of steps than graphs are kept: the oldest goes, and comes again.
TEST_F(CudaRepeat, TheOldestGraphIsDropped) {
  const size_t before = emulation::GraphsCaptured();
  for (int i = 0; i < 140; ++i) {
    const Tensor to = out_.tensor().Rows(i % 100, i % 100 + 1);
    const float keep = i < 100 ? 1.0f : 2.0f;
    backend_->Repeat(1, [&] { backend_->AddResidual(to, to, keep, nullptr, 0.0f); });
  }
  backend_->Synchronize();
  EXPECT_EQ(emulation::GraphsCaptured(), before + 140);
  backend_->Repeat(1, [&] {
    const Tensor to = out_.tensor().Rows(39, 40);
    backend_->AddResidual(to, to, 2.0f, nullptr, 0.0f);
  });
  EXPECT_EQ(emulation::GraphsCaptured(), before + 140);
  backend_->Synchronize();
}

TEST(CudaCapture, LeavesNoGraphWhereAnOpFailed) {
  auto runtime = std::make_unique<cuda::WatchedRuntime>(cuda::MakeRuntime());
  const auto* const watched = runtime.get();
  const auto device = cuda::Device::Open(std::move(runtime), 0).value();
  cuda::Graph graph = nullptr;
  EXPECT_TRUE(device->Capture([] {}, &graph));
  EXPECT_EQ(watched->graphs, 1);
  device->runtime().FreeGraph(graph);
  EXPECT_FALSE(device->Capture([&] { device->Fail(Unsupported("an op")); }, &graph));
  EXPECT_EQ(graph, nullptr);
  EXPECT_EQ(watched->graphs, 0);
}

constexpr double kTolerance = 2e-3;  // of a logit: a key may round to the neighbouring float16

// Whole steps: while tokens are decoded a graph serves until a size doubles, and what it gives is
// what the reference does. All four schedules.
TEST(CudaSteps, DecodeRepeatsItsGraphs) {
  ScratchFolder folder;
  const auto checkpoint = TinyDummy({}, folder.path());
  for (const ScheduleKind schedule : {ScheduleKind::kStandard, ScheduleKind::kLadder,
                                      ScheduleKind::kParallel, ScheduleKind::kDesync}) {
    ModelConfig config = checkpoint->config();
    config.schedule = schedule;
    config.desync_pattern.assign(2 * config.layers.size(), '0');
    for (LayerConfig& layer : config.layers) layer.ladder = schedule == ScheduleKind::kLadder;
    LocalGroupOptions options;
    options.executor.page_tokens = 16;
    options.executor.context_max = 96;
    options.executor.kv_memory_bytes = 16 << 20;
    const auto start = [&](const char* backend) {
      options.backend.name = backend;
      return LocalGroup::Start(*checkpoint, config, options).value();
    };
    const auto group = start("cuda");
    std::vector<testing::Wish> wishes(3);
    for (size_t w = 0; w < wishes.size(); ++w) {
      wishes[w].prompt.assign(70, static_cast<int32_t>(w + 3));  // more than is recorded
      wishes[w].max_tokens = 20;
      wishes[w].params = testing::Greedy();
    }
    const size_t before = emulation::GraphsCaptured();
    testing::Pace pace;
    pace.chunk = 70;
    const auto got = testing::Generate(*group, wishes, 16, pace);
    // Three streams, padded to four, for 19 steps: one graph of the layers, one of the head (and
    // one of the head behind the prefill's last rows).
    EXPECT_LE(emulation::GraphsCaptured() - before, 4u) << ScheduleName(schedule);
    EXPECT_GE(emulation::GraphsCaptured() - before, 2u) << ScheduleName(schedule);
    const auto want = testing::Generate(*start("reference"), wishes, 16, pace);
    for (size_t w = 0; w < want.size(); ++w) {
      ASSERT_EQ(got[w].tokens, want[w].tokens) << ScheduleName(schedule) << ", " << w;
      EXPECT_THAT(got[w].logits, Pointwise(FloatNear(kTolerance), want[w].logits))
          << ScheduleName(schedule) << ", " << w;
    }
  }
}

}  // namespace
}  // namespace echelon
