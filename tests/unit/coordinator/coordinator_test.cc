#include "coordinator/coordinator.h"

#include <gtest/gtest.h>

#include "common/strings.h"
#include "tests/unit/coordinator/coordinator_rig.h"

namespace echelon {
namespace {

using testing::ByteTokenizer;
using testing::FakeGroup;
using testing::FakeTransport;
using testing::Rig;

constexpr const char* kBody = R"({"prompt":"ab","max_tokens":6,"seed":1,"ignore_eos":true})";
constexpr const char* kLong = R"({"prompt":"ab","max_tokens":200,"seed":1,"ignore_eos":true})";
constexpr const char* kShort = R"({"prompt":"ab","max_tokens":8,"seed":1,"ignore_eos":true})";

TEST(Coordinator, ServesARequestEndToEnd) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("c", "r", kBody);
  rig.Turn(60);
  const auto events = rig.Events("c");
  EXPECT_EQ(events.front(), "accepted");
  EXPECT_EQ(events.back(), "done:length");
  EXPECT_EQ(rig.last.Find("prompt_ids")->Dump(), "[257,97,98]") << "special tokens are added";
  EXPECT_EQ(rig.last.Find("ranks")->as_array().at(1).Find("host")->as_string(), "host1");
  EXPECT_EQ(rig.group.in_flight_most(), 2u) << "one plan of lookahead";
}

// A model that repeats itself (seed 3), guessed for and not: the same answer in fewer steps, and
// tokens that came in one step go out in one event.
TEST(Coordinator, SpeculationGivesTheSameAnswerInFewerSteps) {
  struct Seen {
    Json::Array ids;
    std::string text;
    size_t events = 0;
    Json timings;
    int64_t steps = 0;
  };
  const auto ask = [](const std::string& speculation, std::string* metrics) {
    Rig rig;
    rig.group.BecomeReady();
    rig.Submit("c", "r",
               StrCat(R"({"prompt":"abcabcab","max_tokens":100,"seed":3,"ignore_eos":true,)",
                      R"("speculation":")", speculation, R"("})"));
    rig.Turn(300);
    Seen seen;
    for (const FakeTransport::Sent& sent : rig.transport.Take("c")) {
      const Json body = testing::ParseBody(sent);
      if (sent.type == "accepted") continue;
      ++seen.events;
      seen.text += body.Find("text")->as_string();
      if (sent.type == "tokens") {
        EXPECT_EQ(body.Find("seq")->as_int(), static_cast<int64_t>(seen.ids.size()));
        for (const Json& id : body.Find("token_ids")->as_array()) seen.ids.push_back(id);
      } else {
        EXPECT_EQ(sent.type, "done");
        seen.timings = *body.Find("timings");
        seen.steps = body.Find("ranks")->as_array().at(0).Find("steps")->as_int();
      }
    }
    *metrics = rig.metrics.Text();
    return seen;
  };
  std::string metrics;
  const Seen plain = ask("off", &metrics);
  EXPECT_NE(metrics.find("echelon_spec_decode_num_draft_tokens_total 0\n"), std::string::npos);
  const Seen guessed = ask("prompt_lookup", &metrics);
  EXPECT_EQ(plain.ids.size(), 100u);
  EXPECT_EQ(Json(guessed.ids).Dump(), Json(plain.ids).Dump());
  EXPECT_EQ(guessed.text, plain.text);
  const int64_t accepted = guessed.timings.Find("drafts_accepted")->as_int();
  EXPECT_GT(accepted, 30);
  EXPECT_EQ(guessed.steps, plain.steps - accepted);
  EXPECT_LT(guessed.events, plain.events);
  EXPECT_EQ(plain.timings.Find("tokens_drafted")->as_int(), 0);
  const auto counted = StrCat("echelon_spec_decode_num_accepted_tokens_total ", accepted, "\n");
  EXPECT_NE(metrics.find(counted), std::string::npos) << counted;
}

TEST(Coordinator, RequestsWaitWhileTheGroupStarts) {
  Rig rig;
  rig.Submit("c", "r", kBody);
  rig.Turn(50);
  EXPECT_TRUE(rig.Events("c").empty());
  rig.group.BecomeReady();
  rig.Turn(60);
  EXPECT_EQ(rig.Events("c").back(), "done:length");
}

TEST(Coordinator, WhatRanGoesOnWithTheNextGroupTokenForToken) {
  Rig calm;
  calm.group.BecomeReady();
  calm.Submit("a", "ra", kLong);
  calm.Turn(400);
  const std::vector<std::string> undisturbed = calm.Events("a");
  ASSERT_EQ(undisturbed.back(), "done:length");
  const Json answer = calm.last;

  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("a", "ra", kLong);
  rig.Turn(10);
  const size_t before = rig.Events("a").size();
  ASSERT_GT(before, 2u) << "tokens came";
  for (int loss = 0; loss < 2; ++loss) {
    rig.group.Lose(1);
    rig.Turn(5);
    rig.group.BecomeReady();
    rig.Turn(10);
  }
  rig.Turn(400);
  EXPECT_EQ(rig.Events("a").back(), "done:length");
  EXPECT_EQ(rig.last.Find("text")->Dump(), answer.Find("text")->Dump());
  const std::string metrics = rig.metrics.Text();
  EXPECT_NE(metrics.find("echelon_group_restarts_total 2"), std::string::npos);
  EXPECT_NE(metrics.find("echelon_replay_logit_mismatch_total 0"), std::string::npos);
}

TEST(Coordinator, APromptWithATokenTheModelLacksIsRefused) {
  FakeGroup::Options options;
  options.capacity.vocab_size = ByteTokenizer::kBos;  // the tokenizer begins texts with one more
  Rig rig({}, options);
  rig.group.BecomeReady();
  rig.Submit("a", "ra", kShort);
  rig.Turn(5);
  EXPECT_EQ(rig.Events("a"), std::vector<std::string>{"error:invalid_argument"});
  EXPECT_NE(rig.last.Find("message")->as_string().find("no embedding"), std::string::npos);
}

TEST(Coordinator, TextsThatWaitCountForTheQueueBeforeTheyAreTokens) {
  ServiceConfig config;
  config.scheduler.queue_tokens_max = 200;
  Rig rig(config);  // the group is not ready: everything waits
  const std::string body = StrCat(R"({"prompt":")", std::string(1000, 'x'), R"("})");
  rig.Submit("a", "r1", body);
  rig.Submit("a", "r2", body);
  rig.Turn();
  EXPECT_EQ(rig.Events("a"), std::vector<std::string>{"error:resource_exhausted"});
  rig.transport.Push("a", "cancel", "r1", "{}");
  rig.Submit("a", "r3", body);
  rig.Turn();
  EXPECT_EQ(rig.Events("a"), std::vector<std::string>{"done:cancelled"}) << "its place is free";
  EXPECT_EQ(rig.coordinator->live(), 1);
}

TEST(Coordinator, WhatRunsMayEndWhenTheServiceStops) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("a", "ra", kShort);
  rig.Turn(3);
  rig.coordinator->Drain(Unavailable("the service is shutting down"));
  rig.Submit("b", "rb", kShort);
  EXPECT_FALSE(rig.coordinator->quiet());
  rig.Turn(60);
  EXPECT_EQ(rig.Events("a").back(), "done:length");
  EXPECT_EQ(rig.Events("b"), std::vector<std::string>{"error:unavailable"});
  EXPECT_TRUE(rig.coordinator->quiet());
  EXPECT_GT(rig.clock.NowUs(), rig.health.Get().ready_until_us) << "a balancer sends no more";
}

TEST(Coordinator, ASlowStepThatTheDeadlineAllowsLeavesItReady) {
  ServiceConfig config;
  config.group.step_deadline_ms = 120'000;
  FakeGroup::Options options;
  options.step_us = [] { return int64_t{100'000'000}; };
  Rig rig(config, options);
  rig.group.BecomeReady();
  rig.Turn(2);
  rig.clock.AdvanceUs(100'000'000);
  rig.Turn();  // the probe's token
  const int64_t proven = rig.clock.NowUs();
  rig.Submit("a", "ra", kShort);
  rig.Turn(3);
  EXPECT_GE(rig.health.Get().ready_until_us, proven + 120'000'000);
}

TEST(Coordinator, AGroupThatIsNeverIdleDoesNotHoldItUp) {
  Rig rig;
  rig.group.never_idle = true;
  rig.group.BecomeReady();
  rig.Submit("a", "ra", kShort);
  rig.Turn(60);
  EXPECT_EQ(rig.Events("a").back(), "done:length");
}

TEST(Coordinator, ARequestThatWasThereAtTooManyLossesEnds) {
  ServiceConfig config;
  config.scheduler.sequences_max = 1;
  config.scheduler.request_losses_max = 1;
  Rig rig(config);
  rig.group.BecomeReady();
  rig.Turn(20);
  rig.Submit("a", "ra", kLong);
  rig.Submit("b", "rb", kBody);
  rig.Turn(10);
  rig.group.Lose(0);
  rig.Turn(2);
  rig.group.BecomeReady();
  rig.Turn(10);
  EXPECT_NE(rig.Events("a").back(), "error:unavailable");
  rig.group.Lose(1);
  rig.Turn(2);
  EXPECT_EQ(rig.Events("a").back(), "error:unavailable");
  EXPECT_TRUE(rig.last.Find("retryable")->as_bool());
  EXPECT_EQ(rig.last.Find("rank")->as_int(), 1);
  EXPECT_EQ(rig.last.Find("host")->as_string(), "host1");
  EXPECT_GT(rig.last.Find("retry_after_ms")->as_int(), 0);
  EXPECT_EQ(rig.Events("b"), std::vector<std::string>{"accepted"}) << "waited, and goes on waiting";
  rig.Submit("a", "ra", kLong);  // the same id, a new try
  rig.group.BecomeReady();
  rig.Turn(400);
  EXPECT_EQ(rig.Events("b").back(), "done:length");
  EXPECT_EQ(rig.Events("a").back(), "done:length");
}

TEST(Coordinator, AGroupThatFailedForGoodEndsTheService) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("a", "ra", kLong);
  rig.Turn(5);
  EXPECT_FALSE(rig.coordinator->failure().has_value());
  rig.group.FailForGood();
  rig.Turn(1);
  ASSERT_TRUE(rig.coordinator->failure().has_value());
  EXPECT_EQ(rig.Events("a").back(), "error:unavailable");
  rig.Submit("b", "rb", kBody);
  rig.Turn(1);
  EXPECT_EQ(rig.Events("b"), std::vector<std::string>{"error:unavailable"});
}

TEST(Coordinator, AResultThatBreaksTheContractCostsTheGroupNotTheAnswer) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("a", "ra", kLong);
  rig.Turn(5);
  rig.group.tamper = [](StepResult& result) { result.sequences.clear(); };
  rig.Turn(5);
  EXPECT_FALSE(rig.coordinator->failure().has_value());
  EXPECT_EQ(rig.group.distrusted, 1);
  rig.group.tamper = nullptr;
  rig.group.BecomeReady();
  rig.Turn(400);
  EXPECT_EQ(rig.Events("a").back(), "done:length");
}

TEST(Coordinator, DeadlinesOfQueuedAndRunningRequests) {
  ServiceConfig config;
  config.scheduler.sequences_max = 1;
  Rig rig(config);
  rig.group.BecomeReady();
  rig.Turn(20);
  rig.Submit("a", "ra", R"({"prompt":"a","max_tokens":200,"ignore_eos":true,"deadline_ms":50})");
  rig.Submit("b", "rb", R"({"prompt":"b","max_tokens":200,"ignore_eos":true,"deadline_ms":20})");
  rig.Turn(30);
  EXPECT_EQ(rig.Events("b"), (std::vector<std::string>{"accepted", "error:deadline_exceeded"}));
  EXPECT_EQ(rig.coordinator->live(), 1);
  rig.Turn(30);
  EXPECT_EQ(rig.Events("a").back(), "error:deadline_exceeded");
  rig.Turn(10);
  EXPECT_EQ(rig.coordinator->scheduler().pages_free(), rig.coordinator->scheduler().pages_total());
}

TEST(Coordinator, AFullQueueIsAnImmediateErrorWithAHint) {
  ServiceConfig config;
  config.scheduler.sequences_max = 1;
  config.scheduler.queue_requests_max = 2;
  Rig rig(config);
  rig.group.BecomeReady();
  rig.Turn(20);
  rig.Submit("c", "r0", kLong);
  rig.Turn(2);
  for (int i = 1; i <= 3; ++i) rig.Submit(StrCat("c", i), StrCat("r", i), kLong);
  rig.Turn(1);
  EXPECT_EQ(rig.Events("c3"), std::vector<std::string>{"error:resource_exhausted"});
  EXPECT_GE(rig.last.Find("retry_after_ms")->as_int(), 100);
  EXPECT_EQ(rig.Events("c2"), std::vector<std::string>{"accepted"});
}

TEST(Coordinator, QueuedTokensAreBounded) {
  ServiceConfig config;
  config.scheduler.queue_tokens_max = 4;
  Rig rig(config);
  for (int i = 0; i < 3; ++i) rig.Submit(StrCat("c", i), StrCat("r", i), R"({"prompt":[1,2,3]})");
  rig.Turn(1);
  EXPECT_TRUE(rig.Events("c1").empty());
  EXPECT_EQ(rig.Events("c2"), std::vector<std::string>{"error:resource_exhausted"});
}

TEST(Coordinator, WhatDoesNotFitIsRefusedWithTheFieldAndTheLimit) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("c", "r", R"({"prompt":"ab","max_tokens":254})");
  rig.Turn(2);
  EXPECT_EQ(rig.Events("c"), std::vector<std::string>{"error:invalid_argument"});
  EXPECT_EQ(rig.last.Find("param")->as_string(), "max_tokens");
  EXPECT_NE(rig.last.Find("message")->as_string().find("256"), std::string::npos);
  EXPECT_FALSE(rig.last.Find("retryable")->as_bool());
}

TEST(Coordinator, TheDefaultOfMaxTokensIsCutToTheContext) {
  FakeGroup::Options options;
  options.capacity.context_max = 20;
  Rig rig(ServiceConfig(), options);
  rig.group.BecomeReady();
  rig.Submit("c", "r", R"({"prompt":"ab","ignore_eos":true})");
  rig.Turn(60);
  EXPECT_EQ(rig.Events("c").back(), "done:length");
  EXPECT_EQ(rig.last.Find("usage")->Find("completion_tokens")->as_int(), 17);
}

TEST(Coordinator, MessagesWithoutATemplateAreRefused) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("c", "r", R"({"messages":[{"role":"user","content":"hi"}]})");
  rig.Turn(2);
  EXPECT_EQ(rig.Events("c"), std::vector<std::string>{"error:unsupported"});
  EXPECT_EQ(rig.last.Find("param")->as_string(), "messages");
}

TEST(Coordinator, SeedIsDrawnBelowTwoToThe63AndReturned) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("c", "r", R"({"prompt":"ab","max_tokens":1})");
  rig.Turn(2);
  EXPECT_EQ(rig.Events("c").front(), "accepted");
  EXPECT_EQ(rig.last.Find("seed")->as_int(), 42);
}

TEST(Coordinator, PreemptedRequestsGoOnWithTheSameTokens) {
  FakeGroup::Options options;
  options.capacity = {12, 4, 256, ByteTokenizer::kVocab};
  Rig rig(ServiceConfig(), options);
  rig.group.BecomeReady();
  rig.Submit("a", "ra", R"({"prompt":"ab","max_tokens":30,"seed":1,"ignore_eos":true})");
  rig.Submit("b", "rb", R"({"prompt":"ab","max_tokens":30,"seed":1,"ignore_eos":true})");
  rig.Turn(200);
  const auto text = [&](const char* client) {
    std::string out;
    for (const auto& sent : rig.transport.Take(client)) {
      const Json body = testing::ParseBody(sent);
      if (const Json* piece = body.Find("text")) out += piece->as_string();
    }
    return out;
  };
  const std::string a = text("a");
  EXPECT_EQ(a, text("b"));
  EXPECT_FALSE(a.empty());
  EXPECT_GT(rig.coordinator->scheduler().counters().preemptions, 0u);
  EXPECT_NE(rig.metrics.Text().find("echelon_replay_logit_mismatch_total 0"), std::string::npos);
}

TEST(Coordinator, AReplayWithAnotherLogitIsCountedAndEmittedTokensStay) {
  FakeGroup::Options options;
  options.capacity = {12, 4, 256, ByteTokenizer::kVocab};
  Rig rig(ServiceConfig(), options);
  rig.logger = Logger("test", LogLevel::kError);
  rig.group.BecomeReady();
  rig.Submit("a", "ra", R"({"prompt":"ab","max_tokens":30,"seed":1,"ignore_eos":true})");
  rig.Submit("b", "rb", R"({"prompt":"ab","max_tokens":30,"seed":1,"ignore_eos":true})");
  for (int i = 0; i < 200; ++i) {
    rig.group.CorruptLogits(rig.coordinator->scheduler().counters().preemptions > 0);
    rig.Turn();
  }
  EXPECT_EQ(rig.Events("b").back(), "done:length");
  EXPECT_EQ(rig.metrics.Text().find("echelon_replay_logit_mismatch_total 0"), std::string::npos);
}

TEST(Coordinator, ReadyMeansATokenWasProduced) {
  Rig rig;
  rig.Turn(1);
  EXPECT_EQ(rig.health.Get().ready_until_us, 0);
  EXPECT_NE(rig.health.Get().reason.find("starting"), std::string::npos);
  rig.group.BecomeReady();
  rig.Turn(1);
  EXPECT_EQ(rig.health.Get().ready_until_us, 0) << "a port that is open is not ready";
  rig.Turn(10);
  EXPECT_GT(rig.health.Get().ready_until_us, rig.clock.NowUs()) << "by its own probe";
  EXPECT_GT(rig.health.Get().alive_until_us, rig.clock.NowUs());
  EXPECT_NE(rig.metrics.Text().find("echelon_generation_tokens_total 0"), std::string::npos)
      << "the probe is nobody's request";
}

TEST(Coordinator, AnIdleServiceProbesNowAndThenAndAStuckOneStopsBeingReady) {
  Rig rig;
  rig.group.KeepPlans(true);
  rig.group.BecomeReady();
  rig.Turn(20);
  EXPECT_EQ(rig.group.plans().size(), 1u);
  for (int i = 0; i < 30; ++i) {
    rig.clock.AdvanceUs(1'000'000);
    rig.Turn(3);
  }
  EXPECT_GE(rig.group.plans().size(), 3u);
  EXPECT_LE(rig.group.plans().size(), 4u);
  rig.group.tamper = nullptr;
  rig.clock.AdvanceUs(200'000'000);  // the turn that would have probed never came
  EXPECT_LT(rig.health.Get().ready_until_us, rig.clock.NowUs());
  EXPECT_LT(rig.health.Get().alive_until_us, rig.clock.NowUs());
}

TEST(Coordinator, LogsOfEndedRequestsAreBoundedButNotWhatIsStillToBeTaken) {
  Rig rig;
  rig.group.BecomeReady();
  rig.Submit("slow", "kept", R"({"prompt":"a","max_tokens":1})");
  rig.Turn(1);
  rig.transport.full.insert("slow");
  for (int i = 0; i < 1100; ++i) {
    rig.Submit("c", StrCat("r", i), R"({"prompt":"a","max_tokens":1})");
    rig.Turn(1);
  }
  rig.Turn(30);
  rig.transport.full.clear();
  rig.transport.Take("c");
  rig.transport.Push("c", "resume", "r5", "{}");
  rig.transport.Push("c", "resume", "r1000", "{}");
  rig.Turn(200);
  EXPECT_EQ(rig.Events("c").front(), "error:not_found");
  EXPECT_EQ(rig.Events("slow").back().rfind("done", 0), 0u);
}

TEST(Coordinator, NothingIsLeftOfAbandonedRequests) {
  Rig rig;
  rig.group.BecomeReady();
  for (int i = 0; i < 100; ++i) rig.Submit(StrCat("c", i), StrCat("r", i), kLong);
  rig.Turn(5);
  for (int i = 0; i < 100; ++i) rig.transport.Push(StrCat("c", i), "cancel", StrCat("r", i), "{}");
  rig.Turn(20);
  EXPECT_EQ(rig.coordinator->live(), 0);
  EXPECT_EQ(rig.coordinator->scheduler().pages_free(), rig.coordinator->scheduler().pages_total());
}

}  // namespace
}  // namespace echelon
