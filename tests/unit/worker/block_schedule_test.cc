#include "worker/block_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace echelon {
namespace {

using ::testing::HasSubstr;

ModelConfig Layers(int n) {
  ModelConfig model;
  model.family = "llama";
  model.layers.resize(n);
  return model;
}

std::vector<int> InFlight(const ModelConfig& model) {
  std::vector<int> out;
  for (const SubBlockStep& step : MakeSchedule(model).steps) out.push_back(step.in_flight_max);
  return out;
}

std::string Reduces(const ModelConfig& model) {
  std::string out;
  for (const SubBlockStep& step : MakeSchedule(model).steps) {
    out += step.reduce == ReduceKind::kResidual ? 'r'
           : step.reduce == ReduceKind::kNone   ? '-'
                                                : 'o';
  }
  return out;
}

TEST(MakeSchedule, StandardWaitsForEveryReduceAtOnce) {
  const auto steps = MakeSchedule(Layers(2)).steps;
  ASSERT_EQ(steps.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(steps[i].layer, static_cast<int>(i / 2));
    EXPECT_EQ(steps[i].kind, i % 2 == 0 ? BlockKind::kAttention : BlockKind::kMlp);
    EXPECT_EQ(steps[i].reduce, ReduceKind::kOutput);
    EXPECT_EQ(steps[i].in_flight_max, 0);
  }
}

TEST(OverrideSchedule, LadderIsAllLayersAListOrTheLast) {
  const auto ladder = [](std::string_view layers) {
    return InFlight(OverrideSchedule(Layers(4), {"ladder", layers, ""}).value());
  };
  EXPECT_EQ(ladder(""), (std::vector{1, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(ladder("1,3"), (std::vector{0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(ladder("last:1"), (std::vector{0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(ladder("last:4"), ladder(""));
}

TEST(OverrideSchedule, ParallelIsOneStepALayer) {
  const auto steps = MakeSchedule(OverrideSchedule(Layers(3), {"parallel", "", ""}).value()).steps;
  ASSERT_EQ(steps.size(), 3u);
  for (const SubBlockStep& step : steps) EXPECT_EQ(step.kind, BlockKind::kBoth);
}

TEST(OverrideSchedule, ADesyncPatternRepeatsAndTheLastReduceStays) {
  const auto desync = [](std::string_view pattern) {
    return Reduces(OverrideSchedule(Layers(3), {"desync", "", pattern}).value());
  };
  EXPECT_EQ(desync("1"), "rrrrrr");
  EXPECT_EQ(desync("10"), "r-r-rr");
  EXPECT_EQ(desync("011"), "-rr-rr");
  EXPECT_EQ(desync("000000"), "-----r");
}

TEST(OverrideSchedule, TheCheckpointsOwnIsLeftAlone) {
  ModelConfig model = Layers(2);
  model.schedule = ScheduleKind::kLadder;
  model.layers[1].ladder = true;
  EXPECT_EQ(InFlight(OverrideSchedule(model, {}).value()), (std::vector{0, 0, 1, 1}));
  EXPECT_EQ(InFlight(OverrideSchedule(model, {"standard", "", ""}).value()),
            (std::vector{0, 0, 0, 0}));
}

TEST(OverrideSchedule, ErrorsNameTheFlagAndWhatIsAllowed) {
  const auto error = [](const ScheduleOverride& change) {
    const auto result = OverrideSchedule(Layers(4), change);
    return result.ok() ? std::string("ok") : result.error().message;
  };
  EXPECT_THAT(error({"spiral", "", ""}), HasSubstr("schedule \"spiral\""));
  for (const char* layers : {"4", "-1", "1,,2", "1, 2", "last:0", "last:5", "last:", "x", "1,"}) {
    EXPECT_THAT(error({"ladder", layers, ""}), HasSubstr("layer indices 0 to 3")) << layers;
  }
  for (const char* pattern : {"", "2", "101", "10101010 ", "111111111"}) {
    EXPECT_THAT(error({"desync", "", pattern}), HasSubstr("desync_pattern")) << pattern;
  }
  EXPECT_THAT(error({"standard", "1", ""}), HasSubstr("only with schedule \"ladder\""));
  EXPECT_THAT(error({"ladder", "", "1"}), HasSubstr("only with schedule \"desync\""));
}

TEST(OverrideSchedule, PostNormsNeedAReducedOutput) {
  ModelConfig model = Layers(2);
  model.post_norms = true;
  EXPECT_TRUE(OverrideSchedule(model, {"ladder", "", ""}).ok());
  EXPECT_EQ(OverrideSchedule(model, {"parallel", "", ""}).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(OverrideSchedule(model, {"desync", "", "1"}).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace echelon
