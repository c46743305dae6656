#include "coordinator/frontend.h"

#include <gtest/gtest.h>

#include "common/strings.h"
#include "tests/unit/coordinator/coordinator_rig.h"

namespace echelon {
namespace {

using testing::FakeTransport;
using testing::Rig;

constexpr const char* kBody = R"({"prompt":"ab","max_tokens":6,"seed":1,"ignore_eos":true})";

ServiceConfig Small() {
  ServiceConfig config;
  config.frontend.slow_reader_timeout_ms = 100;
  config.frontend.resume_ttl_ms = 200;
  return config;
}

class FrontendTest : public ::testing::Test {
 protected:
  FrontendTest() : rig_(Small()) {
    rig_.group.BecomeReady();
    rig_.Turn(20);
  }
  std::string ErrorOf(const std::string& identity) {
    const auto sent = rig_.transport.Take(identity);
    if (sent.size() != 1 || sent[0].type != "error") return StrCat(sent.size(), " events");
    const Json body = testing::ParseBody(sent[0]);
    return StrCat(body.Find("code")->as_string(), ": ", body.Find("message")->as_string());
  }
  Rig rig_;
};

TEST_F(FrontendTest, WrongPartCounts) {
  for (size_t parts = 0; parts <= 32; ++parts) {
    if (parts == 4) continue;
    rig_.transport.Push("c", std::vector<std::string>(parts, "echelon/1"));
    rig_.Turn();
    EXPECT_EQ(ErrorOf("c"), StrCat("invalid_argument: a message has 4 parts, not ", parts));
  }
  EXPECT_EQ(rig_.frontend->counters().refused_messages, 32u);
}

TEST_F(FrontendTest, OtherVersionsTypesAndIds) {
  rig_.transport.Push("c", {"echelon/2", "submit", "r", kBody});
  rig_.Turn();
  EXPECT_NE(ErrorOf("c").find("echelon/1"), std::string::npos);
  for (const char* type : {"", "Submit", "tokens", "submit "}) {
    rig_.transport.Push("c", {"echelon/1", type, "r", "{}"});
    rig_.Turn();
    EXPECT_NE(ErrorOf("c").find("unknown type"), std::string::npos) << type;
  }
  for (const std::string& id : {std::string(), std::string("a b"), std::string(65, 'x')}) {
    rig_.Submit("c", id, kBody);
    rig_.Turn();
    EXPECT_NE(ErrorOf("c").find("request id"), std::string::npos);
  }
  for (const char* type : {"cancel", "status", "ping"}) {
    rig_.transport.Push("c", {"echelon/1", type, "r", "nonsense"});
    rig_.Turn();
    EXPECT_NE(ErrorOf("c").find("JSON"), std::string::npos) << type;
  }
}

TEST_F(FrontendTest, EveryTruncationOfAMessageIsHarmless) {
  const std::vector<std::string> whole = {"echelon/1", "submit", "r", kBody};
  int i = 0;
  for (size_t part = 0; part < whole.size(); ++part) {
    for (size_t size = 0; size < whole[part].size(); ++size) {
      std::vector<std::string> cut = whole;
      cut[part].resize(size);
      if (part == 2) cut[3] = "{}";
      const std::string client = StrCat("c", i++);
      rig_.transport.Push(client, cut);
      rig_.Turn();
      EXPECT_EQ(ErrorOf(client).rfind("invalid_argument", 0), 0u) << part << " " << size;
    }
  }
}

TEST_F(FrontendTest, PingAndStatus) {
  rig_.transport.Push("c", "ping", "", "{}");
  rig_.transport.Push("c", "status", "", R"({"ignored":1})");
  rig_.Turn();
  EXPECT_EQ(rig_.Events("c"), (std::vector<std::string>{"pong", "status"}));
  EXPECT_EQ(rig_.last.Find("state")->as_string(), "ready");
  EXPECT_EQ(rig_.last.Find("ranks")->as_array().size(), 2u);
}

TEST_F(FrontendTest, ResubmissionOfTheSameBodyIsIdempotent) {
  rig_.Submit("c", "r", kBody);
  rig_.Turn(60);
  EXPECT_EQ(rig_.Events("c").back(), "done:length");
  const Json first = rig_.last;
  rig_.Submit("d", "r", kBody);
  rig_.Turn(2);
  EXPECT_EQ(rig_.Events("d"), (std::vector<std::string>{"accepted", "tokens:0+6", "done:length"}));
  EXPECT_EQ(rig_.last.Dump(), first.Dump());
  EXPECT_EQ(rig_.Events("c").size(), 0u);
}

TEST_F(FrontendTest, TheSameIdWithAnotherBodyIsRefused) {
  rig_.Submit("c", "r", kBody);
  rig_.Submit("d", "r", R"({"prompt":"other"})");
  rig_.Turn(60);
  EXPECT_NE(ErrorOf("d").find("another body"), std::string::npos);
  EXPECT_EQ(rig_.Events("c").back(), "done:length");
}

TEST_F(FrontendTest, ResumeFromTheMiddleTakesTheStreamOver) {
  rig_.Submit("c", "r", kBody);
  rig_.Turn(5);
  rig_.transport.Push("d", "resume", "r", R"({"seq":2})");
  rig_.Turn(60);
  const std::vector<std::string> events = rig_.Events("d");
  EXPECT_EQ(events.front(), "accepted");
  EXPECT_EQ(events[1].rfind("tokens:2+", 0), 0u) << events[1];
  EXPECT_EQ(events.back(), "done:length");
  for (const std::string& event : rig_.Events("c")) EXPECT_NE(event, "done:length");
}

TEST_F(FrontendTest, ResumeOfWhatIsNotThere) {
  rig_.transport.Push("c", "resume", "r", "{}");
  rig_.Turn();
  EXPECT_EQ(ErrorOf("c").rfind("not_found", 0), 0u);
  rig_.Submit("c", "r", kBody);
  rig_.Turn(60);
  rig_.transport.Take("c");
  rig_.transport.Push("c", "resume", "r", R"({"seq":7})");
  rig_.Turn();
  EXPECT_NE(ErrorOf("c").find("past the log's end, 6"), std::string::npos);
  rig_.Turn(300);  // the log's time is over
  rig_.transport.Push("c", "resume", "r", "{}");
  rig_.Turn();
  EXPECT_EQ(ErrorOf("c").rfind("not_found", 0), 0u);
}

TEST_F(FrontendTest, OnlyTheOwnerCancels) {
  rig_.Submit("c", "r", R"({"prompt":"ab","max_tokens":100,"ignore_eos":true})");
  rig_.Turn(5);
  rig_.transport.Push("thief", "cancel", "r", "{}");
  rig_.Turn(2);
  EXPECT_EQ(ErrorOf("thief").rfind("not_found", 0), 0u);
  EXPECT_EQ(rig_.coordinator->live(), 1);
  rig_.transport.Push("c", "cancel", "r", "{}");
  rig_.Turn();
  EXPECT_EQ(rig_.Events("c").back(), "done:cancelled");
  EXPECT_EQ(rig_.coordinator->live(), 0);
  rig_.transport.Push("c", "cancel", "r", "{}");
  rig_.Turn();
  EXPECT_EQ(ErrorOf("c").rfind("not_found", 0), 0u);
}

TEST_F(FrontendTest, ASlowReaderFindsItsTokensCoalescedAndOthersNoticeNothing) {
  rig_.Submit("slow", "s", kBody);
  rig_.Submit("quick", "q", kBody);
  rig_.Turn(3);
  rig_.transport.Take("slow");
  rig_.transport.full.insert("slow");
  rig_.Turn(40);
  EXPECT_EQ(rig_.Events("quick").back(), "done:length");
  EXPECT_GT(rig_.frontend->undelivered_bytes(), 0);
  EXPECT_LT(rig_.transport.refused["slow"], 20) << "it is not asked every turn";
  rig_.transport.full.clear();
  rig_.Turn(40);
  const std::vector<std::string> events = rig_.Events("slow");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].rfind("tokens:", 0), 0u);
  EXPECT_EQ(events[1], "done:length");
  EXPECT_EQ(rig_.frontend->undelivered_bytes(), 0);
}

TEST_F(FrontendTest, AReaderThatTakesNothingIsGivenUp) {
  rig_.Submit("slow", "s", R"({"prompt":"ab","max_tokens":200,"ignore_eos":true})");
  rig_.Turn(3);
  rig_.transport.Take("slow");
  rig_.transport.full.insert("slow");
  rig_.Turn(120);
  EXPECT_EQ(rig_.coordinator->live(), 0);
  EXPECT_EQ(rig_.frontend->undelivered_bytes(), 0);
  // What it had and why it ended can still be fetched.
  rig_.transport.Push("back", "resume", "s", "{}");
  rig_.Turn(2);
  EXPECT_EQ(rig_.Events("back").back(), "error:deadline_exceeded");
}

TEST_F(FrontendTest, AClientThatVanishesMayComeBackForAWhile) {
  rig_.Submit("c", "r", R"({"prompt":"ab","max_tokens":200,"ignore_eos":true})");
  rig_.Turn(3);
  rig_.transport.gone.insert("c");
  rig_.Turn(150);
  EXPECT_EQ(rig_.coordinator->live(), 1);
  EXPECT_EQ(rig_.transport.refused["c"], 1) << "a dead connection is tried once";
  rig_.Turn(100);
  EXPECT_EQ(rig_.coordinator->live(), 0) << "nobody came within resume_ttl_ms";
}

TEST(Frontend, ClientsMax) {
  ServiceConfig config;
  config.frontend.clients_max = 2;
  Rig rig(config);
  rig.Turn();
  for (const char* client : {"a", "b", "c"}) rig.Submit(client, StrCat("r-", client), kBody);
  rig.Submit("a", "another", kBody);
  rig.Turn();
  EXPECT_EQ(rig.coordinator->live(), 3) << "the refused request does not run";
  EXPECT_EQ(rig.Events("c"), std::vector<std::string>{"error:resource_exhausted"});
  EXPECT_TRUE(rig.last.Find("retryable")->as_bool());
  EXPECT_EQ(rig.frontend->clients(), 2);
  rig.group.BecomeReady();
  rig.Turn(60);
  EXPECT_EQ(rig.frontend->clients(), 0);
  EXPECT_EQ(rig.coordinator->live(), 0);
}

TEST_F(FrontendTest, MessagesOfOneTurnSeeEachOther) {
  const char* body = R"({"prompt":"ab","max_tokens":100,"seed":1,"ignore_eos":true})";
  rig_.Submit("a", "cancelled", body);
  rig_.transport.Push("a", "cancel", "cancelled", "{}");
  rig_.Submit("b", "resumed", kBody);
  rig_.transport.Push("b", "resume", "resumed", R"({"seq":0})");
  rig_.Submit("c", "twice", kBody);
  rig_.Submit("c", "twice", kBody);
  rig_.Submit("d", "other", kBody);
  rig_.Submit("d", "other", body);
  rig_.Turn(3);
  EXPECT_EQ(rig_.Events("a").back(), "done:cancelled");
  rig_.Turn(60);
  EXPECT_EQ(rig_.Events("b").back(), "done:length");
  EXPECT_EQ(rig_.Events("c").back(), "done:length");
  const std::vector<std::string> other = rig_.Events("d");
  EXPECT_EQ(other.front(), "error:invalid_argument") << "another body under the same id";
  EXPECT_EQ(other.back(), "done:length");
}

TEST_F(FrontendTest, ATurnTakesABoundedNumberOfBytes) {
  const std::string large = StrCat(R"({"x":")", std::string(600 << 10, 'y'), R"("})");
  for (int i = 0; i < 3; ++i) rig_.transport.Push("c", "ping", "", large);
  rig_.Turn();
  EXPECT_EQ(rig_.Events("c").size(), 2u) << "the second one reaches the limit of 1 MiB";
  rig_.Turn();
  EXPECT_EQ(rig_.Events("c").size(), 1u);
}

TEST_F(FrontendTest, EveryRefusalIsCounted) {
  rig_.Submit("c", "r", R"({"prompt":"x","temperature":-1})");
  rig_.Submit("c", "s", R"({"prompt":"x","tools":[1]})");
  rig_.Submit("c", "t", R"({"prompt":"x","max_tokens":100000000})");
  rig_.Turn(3);
  const std::string text = rig_.metrics.Text();
  EXPECT_NE(text.find(R"(echelon_requests_refused_total{code="invalid_argument"} 2)"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(R"(echelon_requests_refused_total{code="unsupported"} 1)"),
            std::string::npos);
}

TEST(Frontend, UndeliveredBytesAreBounded) {
  ServiceConfig config;
  config.frontend.undelivered_bytes_max = 2000;
  Rig rig(config, {{200, 16, 4096, testing::ByteTokenizer::kVocab}});
  rig.group.BecomeReady();
  rig.Turn(5);
  const char* body = R"({"prompt":"ab","max_tokens":2000,"ignore_eos":true,"logprobs":1})";
  rig.Submit("a", "ra", body);
  rig.Submit("b", "rb", R"({"prompt":"ab","max_tokens":100,"ignore_eos":true})");
  rig.Turn(2);
  rig.transport.full.insert("a");
  int64_t most = 0;
  for (int i = 0; i < 300; ++i) {
    rig.Turn();
    most = std::max(most, rig.frontend->undelivered_bytes());
  }
  EXPECT_LE(most, 2100);
  EXPECT_EQ(rig.Events("b").back(), "done:length");
  EXPECT_EQ(rig.coordinator->live(), 0) << "the one that had the most was ended";
}

TEST(Frontend, ABlockedClientWithNothingToSendWakesNobody) {
  ServiceConfig config;
  config.frontend.undelivered_bytes_max = 300;
  config.scheduler.sequences_max = 1;
  Rig rig(config);
  rig.group.BecomeReady();
  rig.Turn(5);
  rig.Submit("a", "runs", R"({"prompt":"ab","max_tokens":200,"ignore_eos":true})");
  rig.Turn(2);
  rig.Submit("a", "waits", R"({"prompt":"ab","max_tokens":200,"ignore_eos":true})");
  rig.Turn(2);
  rig.transport.full.insert("a");
  rig.Turn(3);
  EXPECT_LT(rig.coordinator->NextWakeUs(), rig.clock.NowUs() + 200'000) << "to try again";
  while (rig.coordinator->live() > 1) rig.Turn();  // too much is undelivered: the first is ended
  EXPECT_GT(rig.coordinator->NextWakeUs(), rig.clock.NowUs()) << "the second has nothing to send";
}

TEST_F(FrontendTest, WithoutStreamingThereIsOneTokensEvent) {
  rig_.Submit("c", "r", R"({"prompt":"ab","max_tokens":6,"ignore_eos":true,"stream":false})");
  rig_.Turn(60);
  EXPECT_EQ(rig_.Events("c"), (std::vector<std::string>{"accepted", "tokens:0+6", "done:length"}));
}

TEST_F(FrontendTest, AFloodDoesNotHoldUpOthers) {
  rig_.Submit("c", "r", kBody);
  rig_.Turn(2);
  for (int i = 0; i < 100'000; ++i) rig_.transport.Push("flood", "cancel", "r", "{}");
  rig_.Turn(60);
  EXPECT_EQ(rig_.Events("c").back(), "done:length");
  EXPECT_TRUE(rig_.transport.HasInput()) << "bounded messages a turn";
}

}  // namespace
}  // namespace echelon
