// Layouts whose messages take their places in the devices' streams: NCCL played among threads, each
// with an emulated device, and mailboxes in the devices' memory. Nobody waits between ops, and tp alone repeats as graphs.

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

StepCommOptions OverNccl(testing::PlayedFabric& fabric) {
  StepCommOptions comm;
  comm.kind = "nccl";
  comm.load_nccl = [&]() -> Result<std::unique_ptr<NcclLibrary>> {
    testing::PlayedDevice device;
    device.enqueue = emulation::EnqueueOn;
    device.copy = emulation::CopyDevice;
    return fabric.Library(device);
  };
  return comm;
}

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
