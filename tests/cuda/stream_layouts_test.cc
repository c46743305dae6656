// Layouts whose messages take their places in the devices' streams: NCCL played among threads, each
// with an emulated device. Nobody waits between ops, and tp alone repeats as graphs.

#include <gtest/gtest.h>

#include <string>

#include "tests/cuda/layout_check.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/worker/played_nccl.h"

namespace echelon {
namespace {

using testing::LayoutCase;

class CudaStreamLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  // Streams that run by themselves, as a device's: one that waits for another rank's must not need
  // that rank's host.
  void SetUp() override { emulation::SetEager(true); }
  void TearDown() override { emulation::SetEager(false); }
};

TEST_P(CudaStreamLayouts, AnswerAsTheReferenceDoes) {
  testing::PlayedFabric fabric;
  StepCommOptions comm;
  comm.kind = "nccl";
  comm.load_nccl = [&]() -> Result<std::unique_ptr<NcclLibrary>> {
    testing::PlayedDevice device;
    device.enqueue = emulation::EnqueueOn;
    device.copy = emulation::CopyDevice;
    return fabric.Library(device);
  };
  const size_t captured = emulation::GraphsCaptured();
  testing::CheckLayout(GetParam(), comm);
  EXPECT_EQ(emulation::GraphsCaptured() > captured, GetParam().sp == 1);
}

INSTANTIATE_TEST_SUITE_P(
    cuda, CudaStreamLayouts,
    ::testing::Values(LayoutCase{"tp2", 2, 1, 1}, LayoutCase{"tp3", 3, 1, 1},
                      LayoutCase{"ladder", 2, 1, 1, "cuda", "llamaLadder"},
                      LayoutCase{"ladderPipeline", 2, 2, 1, "cuda", "llamaLadder"},
                      LayoutCase{"split", 2, 1, 1, "cuda", "llama", TokenSplitMode::kOn},
                      LayoutCase{"ring", 1, 1, 2}, LayoutCase{"ring3", 1, 1, 3},
                      LayoutCase{"everything", 2, 2, 2}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace echelon
