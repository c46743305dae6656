#include "common/block_schedule.h"

#include <gtest/gtest.h>

#include "common/run_setup.h"

namespace echelon {
namespace {

ModelConfig Layers(int n) {
  ModelConfig model;
  model.family = "llama";
  model.d_model = model.d_ff = 64;
  model.n_heads = model.n_kv_heads = 4;
  model.head_dim = 16;
  model.vocab_size = model.context_max = 256;
  model.attention_scale = 0.25f;
  model.layers.resize(n);
  return model;
}

ModelConfig With(const ModelConfig& model, const char* schedule, const char* ladder_layers,
                 const char* desync_pattern) {
  ModelSettings settings;
  settings.schedule = schedule;
  settings.ladder_layers = ladder_layers;
  settings.desync_pattern = desync_pattern;
  return ModelFrom(model, settings).value().model;
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

TEST(MakeSchedule, LadderIsAllLayersAListOrTheLast) {
  const auto ladder = [](const char* layers) {
    return InFlight(With(Layers(4), "ladder", layers, ""));
  };
  EXPECT_EQ(ladder(""), (std::vector{1, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(ladder("1,3"), (std::vector{0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(ladder("last:1"), (std::vector{0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(ladder("last:4"), ladder(""));
}

TEST(MakeSchedule, ParallelIsOneStepALayer) {
  const auto steps = MakeSchedule(With(Layers(3), "parallel", "", "")).steps;
  ASSERT_EQ(steps.size(), 3u);
  for (const SubBlockStep& step : steps) EXPECT_EQ(step.kind, BlockKind::kBoth);
}

TEST(MakeSchedule, ADesyncPatternRepeatsAndTheLastReduceStays) {
  const auto desync = [](const char* pattern) {
    return Reduces(With(Layers(3), "desync", "", pattern));
  };
  EXPECT_EQ(desync("11"), "rrrrrr");
  EXPECT_EQ(desync("10"), "r-r-rr");
  EXPECT_EQ(desync("000000"), "-----r");
}

TEST(MakeSchedule, TheCheckpointsOwnLadderLayersCount) {
  ModelConfig model = Layers(2);
  model.schedule = ScheduleKind::kLadder;
  model.layers[1].ladder = true;
  EXPECT_EQ(InFlight(model), (std::vector{0, 0, 1, 1}));
  model.schedule = ScheduleKind::kStandard;
  EXPECT_EQ(InFlight(model), (std::vector{0, 0, 0, 0}));
}

}  // namespace
}  // namespace echelon
