// Round trips and refusals of every frame between coordinator and workers.
#include <gtest/gtest.h>

#include "common/control.h"
#include "common/step.h"

namespace echelon {
namespace {

StepPlan SamplePlan() {
  StepPlan plan{.step_id = 7, .epoch = 3, .released = {9, 10}};
  SequenceStep first{.id = 1, .start_position = 0, .tokens = {5, 6, 7}, .new_pages = {0, 4}};
  first.first = true;
  first.prompt_tokens = 2;
  first.params.logit_bias = {{3, -1.5f}};
  first.params.seed = 99;
  plan.sequences = {first,
                    {.id = 2,
                     .start_position = 40,
                     .tokens = {kTokenFromLastStep},
                     .new_pages = {},
                     .sample = true},
                    {.id = 3,
                     .start_position = 8,
                     .tokens = {1, 2, 3},
                     .new_pages = {},
                     .sample = true,
                     .drafts = 2}};
  return plan;
}

StepResult SampleResult() {
  StepResult result{.step_id = 7, .epoch = 3};
  result.sequences = {{.id = 1,
                       .sampled = {{12, 3.5f, {{12, -0.1f}, {3, -2.0f}}}, {13, 1.5f, {}}},
                       .prompt_top = {{{1, -0.5f}}, {}}},
                      {.id = 2}};
  result.timings = {{0, 0.1f, 0.2f, 0.3f, 4, 5}, {1, 0.4f, 0.5f, 0.6f, 6, 7}};
  return result;
}

TEST(StepWire, RoundTrips) {
  EXPECT_EQ(*DecodePlan(EncodePlan(SamplePlan())), SamplePlan());
  EXPECT_EQ(*DecodeResult(EncodeResult(SampleResult())), SampleResult());
}

TEST(StepWire, EveryTruncationAndExtensionIsRefused) {
  const std::string plan = EncodePlan(SamplePlan());
  for (size_t n = 0; n < plan.size(); ++n) EXPECT_FALSE(DecodePlan(plan.substr(0, n)).ok()) << n;
  EXPECT_FALSE(DecodePlan(plan + "x").ok());
  const std::string result = EncodeResult(SampleResult());
  for (size_t n = 0; n < result.size(); ++n) {
    EXPECT_FALSE(DecodeResult(result.substr(0, n)).ok()) << n;
  }
  EXPECT_FALSE(DecodeResult(result + "x").ok());
}

TEST(StepWire, CountsBeyondTheLimitsAreRefused) {
  EXPECT_FALSE(DecodePlan(EncodePlan(SamplePlan()), {.tokens_max = 2}).ok());
  EXPECT_FALSE(DecodePlan(EncodePlan(SamplePlan()), {.sequences_max = 1}).ok());
}

TEST(StepWire, NoByteFlipCrashes) {
  const std::string plan = EncodePlan(SamplePlan());
  for (size_t i = 0; i < plan.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = plan;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      const auto decoded = DecodePlan(bad);  // either refused or some other plan
      if (decoded.ok()) {
        EXPECT_EQ(EncodePlan(*decoded), bad);  // what it read is what stands there
      }
    }
  }
}

TEST(ControlWire, HeaderRoundTripsAndRefuses) {
  const ControlHeader header{ControlType::kResult, 5, 3};
  const std::string bytes = EncodeHeader(header);
  EXPECT_EQ(bytes.size(), 24u);
  const auto decoded = DecodeHeader(bytes);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->type, ControlType::kResult);
  EXPECT_EQ(decoded->epoch, 5u);
  EXPECT_EQ(decoded->rank, 3u);
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(DecodeHeader(bytes.substr(0, n)).ok());
  for (const size_t i : {0, 4, 20}) {  // magic, type, reserved
    std::string bad = bytes;
    bad[i] = static_cast<char>(bad[i] ^ 0x40);
    EXPECT_FALSE(DecodeHeader(bad).ok()) << i;
  }
}

TEST(ControlWire, BodiesRoundTrip) {
  JoinMessage join{
      .world = 4, .pid = 77, .build = BuildId(), .host = "n1", .interface = "10.0.0.1"};
  const auto joined = DecodeJoin(Encode(join));
  ASSERT_TRUE(joined.ok());
  EXPECT_EQ(joined->host, "n1");
  EXPECT_EQ(joined->build, BuildId());
  ReadyMessage ready{
      .weights_fingerprint = "w", .numerics_fingerprint = "n", .device = "d", .kv_pages = 11};
  EXPECT_EQ(DecodeReady(Encode(ready))->device, "d");
  EXPECT_EQ(DecodeReady(Encode(ready))->kv_pages, 11u);
  FailureMessage failure{.error = {ErrorCode::kResourceExhausted, "no memory", "kv", 2, "n2"}};
  const auto failed = DecodeFailure(Encode(failure));
  ASSERT_TRUE(failed.ok());
  EXPECT_EQ(failed->error.code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(failed->error.rank, 2);
  EXPECT_EQ(failed->error.host, "n2");
  EXPECT_FALSE(DecodeFailure(Encode(failure) + "x").ok());
  EXPECT_FALSE(DecodeJoin("").ok());
}

}  // namespace
}  // namespace echelon
