#include "worker/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/model_builder.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

Error RefusalOf(const TinyModel& tiny) {
  const ScratchFolder folder;
  const auto checkpoint = TinyDummy(tiny, folder.path());
  const Status measured = Calibrator(*checkpoint, {"reference", 1, "auto"}).Measure();
  return measured.ok() ? Error() : measured.error();
}

TEST(Calibrator, RefusesWhatItCannotMeasure) {
  TinyModel brief;
  brief.context = 1223;
  const Error too_short = RefusalOf(brief);
  EXPECT_EQ(too_short.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(too_short.message, HasSubstr("up to 1224 positions, the model's context has 1223"));
  TinyModel narrow;
  narrow.context = 1224;
  narrow.n_heads = narrow.n_kv_heads = 1;
  const Error one_head = RefusalOf(narrow);
  EXPECT_EQ(one_head.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(one_head.message, HasSubstr("one attention head"));
}

}  // namespace
}  // namespace echelon
