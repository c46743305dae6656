#include "common/run_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace echelon {
namespace {

using ::testing::HasSubstr;

ModelConfig FourLayers() {
  ModelConfig model;
  model.family = "llama";
  model.d_model = 64;
  model.n_heads = 4;
  model.n_kv_heads = 2;
  model.head_dim = 16;
  model.d_ff = 128;
  model.vocab_size = 256;
  model.context_max = 512;
  model.layers.resize(4);
  model.attention_scale = 0.25f;
  return model;
}

std::string LadderFlags(const ModelConfig& model) {
  std::string flags;
  for (const LayerConfig& layer : model.layers) flags += layer.ladder ? '1' : '0';
  return flags;
}

TEST(LayoutFrom, ReadsLayersPerStage) {
  LayoutSettings settings;
  settings.tp = 2;
  settings.pp = 3;
  settings.layers_per_stage = "8,8,7";
  const auto layout = LayoutFrom(settings);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->world(), 6);
  EXPECT_EQ(layout->layers_per_stage, (std::vector<int>{8, 8, 7}));
  EXPECT_TRUE(layout->shard_shares.empty());
  settings.shard_shares = "3,1";
  EXPECT_EQ(LayoutFrom(settings)->shard_shares, (std::vector<int>{3, 1}));
  settings.layers_per_stage = "8,x";
  EXPECT_EQ(LayoutFrom(settings).error().field, "layout.layers_per_stage");
}

TEST(ModelFrom, KeepsTheCheckpointsScheduleSilently) {
  const auto effective = ModelFrom(FourLayers(), {});
  ASSERT_TRUE(effective.ok());
  EXPECT_EQ(effective->model.schedule, ScheduleKind::kStandard);
  EXPECT_EQ(effective->warning, "");
}

TEST(ModelFrom, MarksLadderLayersAndWarns) {
  const auto flags = [](const std::string& layers) {
    ModelSettings settings;
    settings.schedule = "ladder";
    settings.ladder_layers = layers;
    const auto effective = ModelFrom(FourLayers(), settings);
    if (!effective.ok()) return effective.error().message;
    EXPECT_THAT(effective->warning, HasSubstr("ANOTHER MODEL"));
    EXPECT_EQ(effective->model.schedule, ScheduleKind::kLadder);
    return LadderFlags(effective->model);
  };
  EXPECT_EQ(flags(""), "1111");
  EXPECT_EQ(flags("1,3"), "0101");
  EXPECT_EQ(flags("last:2"), "0011");
  EXPECT_THAT(flags("4"), HasSubstr("no layer 4"));
  EXPECT_THAT(flags("last:5"), HasSubstr("ladder_layers"));
  EXPECT_THAT(flags("1,,2"), HasSubstr("ladder_layers"));
}

TEST(ModelFrom, SaysNothingWhereTheScheduleIsTheCheckpointsOwn) {
  ModelConfig checkpoint = FourLayers();
  ModelSettings settings;
  settings.schedule = "standard";
  EXPECT_EQ(ModelFrom(checkpoint, settings)->warning, "");
  checkpoint.schedule = ScheduleKind::kLadder;
  checkpoint.layers[3].ladder = true;
  EXPECT_NE(ModelFrom(checkpoint, settings)->warning, "");
  settings.schedule = "ladder";
  settings.ladder_layers = "last:1";
  EXPECT_EQ(ModelFrom(checkpoint, settings)->warning, "");
  settings.ladder_layers = "last:2";
  EXPECT_NE(ModelFrom(checkpoint, settings)->warning, "");
}

TEST(ModelFrom, RepeatsDesyncPatternOverTheLayers) {
  const auto pattern = [](const std::string& text) {
    ModelSettings settings;
    settings.schedule = "desync";
    settings.desync_pattern = text;
    const auto effective = ModelFrom(FourLayers(), settings);
    return effective.ok() ? effective->model.desync_pattern : effective.error().field;
  };
  EXPECT_EQ(pattern("01"), "01010101");
  EXPECT_EQ(pattern("01101101"), "01101101");
  for (const char* bad : {"", "0", "012", "0x", "011011"}) {
    EXPECT_EQ(pattern(bad), "model.desync_pattern") << bad;
  }
}

TEST(ModelFrom, RefusesKeysThatTheScheduleDoesNotRead) {
  const auto field = [](const ModelSettings& settings) {
    const auto effective = ModelFrom(FourLayers(), settings);
    return effective.ok() ? std::string("accepted") : effective.error().field;
  };
  ModelSettings settings;
  settings.ladder_layers = "1";
  EXPECT_EQ(field(settings), "model.ladder_layers");
  settings.schedule = "ladder";
  EXPECT_EQ(field(settings), "accepted");
  settings.desync_pattern = "10";
  EXPECT_EQ(field(settings), "model.desync_pattern");
}

TEST(ModelFrom, PostNormsNeedAReducedOutput) {
  ModelConfig model = FourLayers();
  model.post_norms = true;
  ModelSettings settings;
  settings.schedule = "ladder";
  EXPECT_TRUE(ModelFrom(model, settings).ok());
  settings.schedule = "parallel";
  EXPECT_EQ(ModelFrom(model, settings).error().code, ErrorCode::kUnsupported);
  settings.schedule = "desync";
  settings.desync_pattern = "10";
  EXPECT_EQ(ModelFrom(model, settings).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace echelon
