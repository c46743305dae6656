// Calibration on a machine with a CUDA device (emulated): it measures the host's cores all the
// same.

#include "worker/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/support/model_builder.h"

namespace echelon {
namespace {

class CudaCalibration : public ::testing::Test {
 protected:
  CudaCalibration() {
    TinyModel tiny;
    tiny.context = 1224;
    checkpoint_ = TinyDummy(tiny, folder_.path());
  }
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(CudaCalibration, AutoIsWhatTheCoresComputeWith) {
  ASSERT_EQ(MakeBackend({.name = "auto"}).value()->name(), "cuda");
  Calibrator calibrator(*checkpoint_, {.name = "auto"});
  ASSERT_TRUE(calibrator.Measure().ok());
  EXPECT_THAT(calibrator.Rates().backend,
              ::testing::AnyOf(::testing::StartsWith("cpu"), ::testing::StartsWith("reference")));
}

TEST_F(CudaCalibration, ADeviceIsRefused) {
  const Status measured = Calibrator(*checkpoint_, {.name = "cuda"}).Measure();
  ASSERT_FALSE(measured.ok());
  EXPECT_EQ(measured.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(measured.error().message, ::testing::HasSubstr("no devices"));
}

}  // namespace
}  // namespace echelon
