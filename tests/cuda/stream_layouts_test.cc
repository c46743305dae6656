// Layouts whose messages take their places in the devices' streams: NCCL played among threads, each
// with an emulated device, and mailboxes in the devices' memory. Nobody waits between ops, and tp
// alone repeats as graphs.

#include <gtest/gtest.h>

#include <string>

#include "tests/cuda/layout_check.h"
#include "tests/cuda/stream_ranks.h"

namespace echelon {
namespace {

using testing::LayoutCase;

using testing::OverNccl;

class CudaStreamLayouts : public ::testing::TestWithParam<LayoutCase> {
  const testing::EagerStreams eager_;
};

TEST_P(CudaStreamLayouts, AnswerAsTheReferenceDoes) {
  testing::PlayedFabric fabric;
  const size_t captured = emulation::GraphsCaptured();
  testing::CheckLayout(GetParam(), OverNccl(fabric));
  EXPECT_EQ(emulation::GraphsCaptured() > captured, GetParam().sp == 1);
}

// By the kernels that a device runs, too.
TEST_P(CudaStreamLayouts, AnswerAsTheReferenceDoesThroughPeerMemory) {
  const size_t captured = emulation::GraphsCaptured();
  testing::CheckLayout(GetParam(), {.kind = "peer"});
  EXPECT_EQ(emulation::GraphsCaptured() > captured, GetParam().sp == 1);
}

INSTANTIATE_TEST_SUITE_P(cuda, CudaStreamLayouts, ::testing::ValuesIn(testing::DeviceLayouts()),
                         testing::NameOfLayout);

// A stream of every kind of draw, and a prompt that is scored.
std::vector<testing::Wish> DrawWishes() {
  std::vector<testing::Wish> wishes(4);
  for (size_t w = 0; w < wishes.size(); ++w) {
    for (size_t i = 0; i < 6 + 9 * w; ++i) {
      wishes[w].prompt.push_back(static_cast<int32_t>((i * 37 + w * 11) % 250 + 1));
    }
    wishes[w].max_tokens = 6;
    wishes[w].begin_step = static_cast<int>(w);
    wishes[w].params.seed = w;
  }
  wishes[0].params = testing::Greedy();
  wishes[0].params.presence_penalty = 0.8f;
  wishes[0].params.repetition_penalty = 1.1f;
  wishes[1].params.top_k = 20;
  wishes[1].params.top_p = 0.9f;
  wishes[1].params.temperature = 1.5f;
  wishes[1].params.logprobs = 3;
  wishes[2].params.frequency_penalty = 0.4f;
  wishes[2].params.logit_bias = {{7, 2.0f}, {200, 3.0f}};
  wishes[2].params.min_p = 0.01f;
  wishes[3].params.prompt_logprobs = 2;
  return wishes;
}

using CudaLayoutDraws = CudaStreamLayouts;

// The hosts draw for ranks whose tensors are staged, the devices for ranks in whose streams they
// travel: the same bits, with plans ahead and without, in any chunks.
TEST_P(CudaLayoutDraws, DevicesDrawWhatTheHostsDo) {
  testing::PlayedFabric fabric;
  const testing::LayoutInput input(GetParam());
  LocalGroupOptions options = testing::OptionsFor(GetParam(), "cuda");
  const auto start = [&](const StepCommOptions& comm) {
    options.executor.comm = comm;
    return LocalGroup::Start(input.checkpoint(), input.model(), options).value();
  };
  const int page_tokens = options.executor.page_tokens;
  const auto want = Generate(*start({.kind = "staged"}), DrawWishes(), page_tokens);
  const std::vector<testing::Pace> paces = {
      {}, {.plans_ahead = 1}, {.chunk = 5, .plans_ahead = 2, .page_seed = 3}};
  for (const StepCommOptions& comm : {OverNccl(fabric), StepCommOptions{.kind = "peer"}}) {
    const auto group = start(comm);
    for (const testing::Pace& pace : paces) {
      EXPECT_EQ(Generate(*group, DrawWishes(), page_tokens, pace), want)
          << comm.kind << ", " << pace.plans_ahead << " ahead";
    }
  }
}

// Those that differ in who has which part of the vocabulary, and in what is enqueued ahead.
INSTANTIATE_TEST_SUITE_P(cuda, CudaLayoutDraws,
                         ::testing::Values(LayoutCase{"tp3", 3, 1, 1},
                                           LayoutCase{"pipeline", 1, 2, 1},
                                           LayoutCase{"ring", 1, 1, 2},
                                           LayoutCase{"everything", 2, 2, 2}),
                         testing::NameOfLayout);

using CudaMixedLayouts = CudaStreamLayouts;

// What carries the stream from stage to stage depends on these two alone.
TEST_P(CudaMixedLayouts, StagesOnDevicesNeedNoHostBetweenThem) {
  testing::PlayedFabric fabric;
  testing::CheckLayout(GetParam(), OverNccl(fabric));
  EXPECT_EQ(fabric.messages() > 0, std::string(GetParam().name) == "deviceToDeviceToCpu");
}

INSTANTIATE_TEST_SUITE_P(
    cuda, CudaMixedLayouts,
    ::testing::Values(LayoutCase{"deviceToDeviceToCpu", 1, 3, 1, "cuda,cuda,cpu"},
                      LayoutCase{"deviceToCpuToDevice", 1, 3, 1, "cuda,cpu,cuda"}),
    testing::NameOfLayout);

}  // namespace
}  // namespace echelon
