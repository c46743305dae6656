#include "client/cli/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/testing/fake_server.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Client> ConnectTo(const FakeServer& server) {
  ClientOptions options;
  options.endpoint = server.endpoint();
  auto client = Client::Connect(options);
  EXPECT_TRUE(client.ok());
  return std::move(*client);
}

TEST(Bench, SpreadIsMedianAndRange) {
  const Spread odd = SpreadOf({3, 1, 2});
  EXPECT_EQ(odd.median, 2);
  EXPECT_EQ(odd.min, 1);
  EXPECT_EQ(odd.max, 3);
  EXPECT_EQ(SpreadOf({4, 1, 2, 3}).median, 2.5);
}

TEST(Bench, AWindowBoundsWhatALayerReads) {
  ModelConfig model;
  model.layers.resize(4);
  model.layers[0].window = model.layers[1].window = 100;
  ServiceStatus status;
  status.ranks.resize(2);
  for (RankProgress& rank : status.ranks) {
    rank.token_bytes = 1000;
    rank.kv_position_bytes = 20;  // 5 a layer
  }
  EXPECT_EQ(BytesPerToken(model, status, 50), 2000 + 50 * 40);
  EXPECT_EQ(BytesPerToken(model, status, 300), 2000 + (2 * 100 + 2 * 300) * 10);
}

TEST(Bench, BandwidthIsTheSumOrUnknown) {
  ServiceStatus status;
  status.ranks.resize(2);
  status.ranks[0].read_bytes_per_s = 5;
  EXPECT_EQ(ReadBytesPerSecond(status), 0);
  status.ranks[1].read_bytes_per_s = 7;
  EXPECT_EQ(ReadBytesPerSecond(status), 12);
}

TEST(Bench, DrawsNoIdsThatTheServiceRefuses) {
  const ScratchFolder folder;
  WriteTinySafetensors({.vocab = 300}, folder.path());
  ServiceConfig config;
  config.model.path = folder.path();
  ModelConfig model;
  model.vocab_size = 384;  // a padded embedding: as in the checkpoints of Qwen
  EXPECT_EQ(*UsableTokenIds(config, model), 300);
  model.vocab_size = 280;
  EXPECT_EQ(*UsableTokenIds(config, model), 280);

  const ScratchFolder bare;
  config.model.path = bare.path();
  EXPECT_FALSE(UsableTokenIds(config, model).ok());
  config.model.load_format = "dummy";
  EXPECT_EQ(*UsableTokenIds(config, model), 280);
}

TEST(Bench, RatesFollowTheClock) {
  // 5 tokens, each 20 ms after the one before: at most 50 tokens a second, however slow the
  // machine.
  FakeServer server(WithPong(FakeService({.tokens = 5, .token_delay_ms = 20})));
  const auto client = ConnectTo(server);
  Bench bench(*client, {.prompt = 7, .gen = 5, .streams = 1, .token_ids = 10}, 1,
              [] { return Status(); });
  const auto rates = bench.Run();
  ASSERT_TRUE(rates.ok()) << rates.error().message;
  EXPECT_GT(rates->decode, 0);
  EXPECT_LE(rates->decode, 51);
  EXPECT_LE(rates->served, 51);
  EXPECT_LE(rates->prefill, 7 / 0.0199);
}

TEST(Bench, MissingTokensAreAnError) {
  FakeServer server(WithPong(FakeService({.tokens = 5})));
  const auto client = ConnectTo(server);
  Bench bench(*client, {.prompt = 7, .gen = 6, .streams = 1, .token_ids = 10}, 1,
              [] { return Status(); });
  const auto rates = bench.Run();
  ASSERT_FALSE(rates.ok());
  EXPECT_THAT(rates.error().message, HasSubstr("asked for 6 tokens, got 5"));
}

}  // namespace
}  // namespace echelon
