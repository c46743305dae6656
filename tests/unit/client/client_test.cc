#include "client/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "client/testing/fake_server.h"
#include "common/strings.h"

namespace echelon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Json kBody = Json(Json::Object{{"prompt", Json("hi")}});

std::unique_ptr<Client> ConnectTo(const FakeServer& server) {
  ClientOptions options;
  options.endpoint = server.endpoint();
  options.silence_ms = 200;
  options.give_up_after_ms = 2'000;
  options.reopen_interval_ms = 20;
  auto client = Client::Connect(options);
  EXPECT_TRUE(client.ok()) << (client.ok() ? "" : client.error().message);
  return client.ok() ? *std::move(client) : nullptr;
}

std::vector<std::string> TypesOf(const std::vector<Frame>& frames) {
  std::vector<std::string> types;
  for (const Frame& frame : frames) {
    if (frame.type != "ping") types.push_back(frame.type);
  }
  return types;
}

void ExpectWhole(const Result<Completion>& completion, int tokens) {
  ASSERT_TRUE(completion.ok()) << completion.error().message;
  ASSERT_FALSE(completion->error) << completion->error->error.message;
  std::vector<int32_t> ids;
  std::string text;
  for (int i = 0; i < tokens; ++i) {
    ids.push_back(100 + i);
    text += StrCat("t", i, " ");
  }
  EXPECT_EQ(completion->token_ids, ids);
  EXPECT_EQ(completion->text, text);
  EXPECT_EQ(completion->done.finish_reason, "stop");
}

TEST(Client, NobodyThereIsOneClearError) {
  ClientOptions options;
  options.endpoint = "tcp://127.0.0.1:1";
  options.connect_timeout_ms = 150;
  const auto client = Client::Connect(options);
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(client.error().message, HasSubstr("tcp://127.0.0.1:1"));
}

TEST(Client, AMalformedEndpointIsRefused) {
  ClientOptions options;
  options.endpoint = "localhost:5760";
  const auto client = Client::Connect(options);
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.error().code, ErrorCode::kInvalidArgument);
}

TEST(Client, ReadsAStreamToItsEnd) {
  const FakeServer server(FakeService({}));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody);
  ExpectWhole(completion, 5);
  EXPECT_EQ(completion->accepted.seed, 7);
  EXPECT_THAT(completion->done.prompt_ids, ElementsAre(1, 2, 3));
}

TEST(Client, StreamsOfOneConnectionDoNotMix) {
  const FakeServer server(FakeService({.tokens = 3}));
  const auto client = ConnectTo(server);
  ASSERT_TRUE(client->Submit(kBody, "a").ok());
  ASSERT_TRUE(client->Submit(kBody, "b").ok());
  std::map<std::string, Completion> completions;
  for (const char* id : {"b", "a"}) {
    bool last = false;
    while (!last) {
      auto event = client->Next(1'000, id);
      ASSERT_TRUE(event.ok() && event->has_value());
      EXPECT_EQ((*event)->id, id);
      completions[id].Add(**event);
      last = (*event)->IsLast();
    }
  }
  EXPECT_THAT(completions["a"].token_ids, ElementsAre(100, 101, 102));
  EXPECT_THAT(completions["b"].token_ids, ElementsAre(100, 101, 102));
}

TEST(Client, AWaitForOneStreamEndsThoughAnotherHasEvents) {
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    return {
        {{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}, frame.id == "late" ? 300 : 0}};
  }));
  const auto client = ConnectTo(server);
  ASSERT_TRUE(client->Submit(kBody, "early").ok());
  ASSERT_TRUE(client->Submit(kBody, "late").ok());
  const auto none = client->Next(100, "late");
  ASSERT_TRUE(none.ok()) << none.error().message;
  EXPECT_FALSE(none->has_value());
  const auto early = client->Next(0, "early");
  ASSERT_TRUE(early.ok() && early->has_value());
  EXPECT_EQ((*early)->id, "early");
  EXPECT_TRUE((*client->Next(2'000, "late")).has_value());
}

TEST(Client, AnIdSubmittedAgainHasNothingOfItsFormerStream) {
  const FakeServer server(FakeService({.tokens = 3}));
  const auto client = ConnectTo(server);
  ASSERT_TRUE(client->Submit(kBody, "same").ok());
  ASSERT_TRUE(client->Submit(kBody, "other").ok());
  const auto read = [&](const std::string& id) {
    int events = 0;
    for (bool last = false; !last; ++events) {
      const auto event = client->Next(1'000, id);
      if (!event.ok() || !event->has_value()) return -1;
      last = (*event)->IsLast();
    }
    return events;
  };
  EXPECT_EQ(read("other"), 5);  // and all five of "same" wait
  ASSERT_TRUE(client->Submit(kBody, "same").ok());
  EXPECT_EQ(read("same"), 5);
  EXPECT_FALSE((*client->Next(50, "same")).has_value());
}

TEST(Client, TheLargestAnswerThatTheTransportTakesIsRead) {
  const size_t bytes = (size_t{64} << 20) + 1;  // more than what Json reads by default
  const FakeServer server(WithPong([&](const Frame& frame) -> std::vector<FakeAction> {
    return {{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}},
            {{"done", frame.id,
              StrCat(R"({"seq":0,"finish_reason":"length","text":")", std::string(bytes, 'x'),
                     R"(","usage":{"prompt_tokens":1,"completion_tokens":0},"timings":{},)"
                     R"("seed":1,"layout":{"tp":1,"pp":1,"sp":1}})")}}};
  }));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody);
  ASSERT_TRUE(completion.ok()) << completion.error().message;
  EXPECT_EQ(completion->text.size(), bytes);
}

TEST(Client, ABrokenConnectionResumesWhereItStopped) {
  const FakeServer server(FakeService({.tokens = 8, .break_before_token = 3}));
  const auto client = ConnectTo(server);
  ExpectWhole(client->Generate(kBody), 8);
  EXPECT_THAT(TypesOf(server.received()), ElementsAre("submit", "resume"));
  for (const Frame& frame : server.received()) {
    if (frame.type == "resume") {
      EXPECT_EQ(frame.body, R"({"seq":3})");
    }
  }
}

TEST(Client, AnUnansweredSubmitIsSentAgain) {
  auto service = FakeService({});
  auto submits = std::make_shared<int>(0);
  const FakeServer server([=](const Frame& frame) -> std::vector<FakeAction> {
    if (frame.type == "submit" && ++*submits == 1) return {{.frame = {}, .disconnect = true}};
    return service(frame);
  });
  const auto client = ConnectTo(server);
  ExpectWhole(client->Generate(kBody), 5);
  EXPECT_THAT(TypesOf(server.received()), ElementsAre("submit", "submit"));
}

TEST(Client, AGapIsFilledByResuming) {
  const FakeServer server(FakeService({.tokens = 6, .skip_token_once = 2}));
  const auto client = ConnectTo(server);
  ExpectWhole(client->Generate(kBody), 6);
  EXPECT_THAT(TypesOf(server.received()), ElementsAre("submit", "resume"));
}

TEST(Client, ATruncatedEndIsAGapToo) {
  const FakeServer server(FakeService({.tokens = 6, .skip_token_once = 5}));
  const auto client = ConnectTo(server);
  ExpectWhole(client->Generate(kBody), 6);
}

TEST(Client, AStreamThatStaysOutOfOrderIsAnError) {
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    return {{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}},
            {{"tokens", frame.id, R"({"seq":4,"token_ids":[1],"text":""})"}}};
  }));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody);
  ASSERT_FALSE(completion.ok());
  EXPECT_EQ(completion.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(completion.error().message, HasSubstr("out of order"));
}

TEST(Client, RepeatedTokensAreDropped) {
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    const FakeAction first = {{"tokens", frame.id, R"({"seq":0,"token_ids":[1,2],"text":"ab"})"}};
    return {{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}},
            first,
            first,
            {{"tokens", frame.id, R"({"seq":2,"token_ids":[3],"text":"c"})"}},
            {{"done", frame.id,
              R"({"seq":3,"finish_reason":"stop","text":"","usage":{"prompt_tokens":1,)"
              R"("completion_tokens":3},"timings":{},"seed":1,"layout":{"tp":1,"pp":1,"sp":1}})"}}};
  }));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody);
  ASSERT_TRUE(completion.ok()) << completion.error().message;
  EXPECT_THAT(completion->token_ids, ElementsAre(1, 2, 3));
  EXPECT_EQ(completion->text, "abc");
}

TEST(Client, ErrorRepliesEndTheStream) {
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    return {{{"error", frame.id,
              R"({"code":"resource_exhausted","message":"256 requests wait","param":null,)"
              R"("retryable":true,"retry_after_ms":500,"rank":null,"host":null})"}}};
  }));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody);
  ASSERT_TRUE(completion.ok());
  ASSERT_TRUE(completion->error.has_value());
  EXPECT_EQ(completion->error->error.code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(completion->error->retry_after_ms, 500);
}

TEST(Client, CancelEndsAStream) {
  auto seen = std::make_shared<std::string>();
  const FakeServer server(WithPong([=](const Frame& frame) -> std::vector<FakeAction> {
    if (frame.type == "cancel") {
      return {{{"done", frame.id,
                R"({"seq":1,"finish_reason":"cancelled","text":"","usage":{"prompt_tokens":1,)"
                R"("completion_tokens":1},"timings":{},"seed":1,)"
                R"("layout":{"tp":1,"pp":1,"sp":1}})"}}};
    }
    return {{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}},
            {{"tokens", frame.id, R"({"seq":0,"token_ids":[1],"text":"a"})"}}};
  }));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody, [](const StreamEvent& event) {
    return !std::holds_alternative<TokensEvent>(event.body);
  });
  ASSERT_TRUE(completion.ok()) << completion.error().message;
  EXPECT_EQ(completion->done.finish_reason, "cancelled");
}

TEST(Client, ARequestCancelledBeforeItWasAcceptedEnds) {
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    if (frame.type != "cancel") return {};
    return {{{"done", frame.id,
              R"({"seq":0,"finish_reason":"cancelled","text":"","usage":{"prompt_tokens":0,)"
              R"("completion_tokens":0},"timings":{},"seed":1,)"
              R"("layout":{"tp":1,"pp":1,"sp":1}})"}}};
  }));
  const auto client = ConnectTo(server);
  ASSERT_TRUE(client->Submit(kBody, "early").ok());
  ASSERT_TRUE(client->Cancel("early").ok());
  const auto event = client->Next(1'000, "early");
  ASSERT_TRUE(event.ok() && event->has_value());
  EXPECT_TRUE((*event)->IsLast());
}

TEST(Client, ASlowServiceIsWaitedForWhileItAnswersPings) {
  // Silent for longer than give_up_after_ms as far as the stream goes, but it answers pings.
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    if (frame.type != "cancel")
      return {{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}}};
    return {};
  }));
  const auto client = ConnectTo(server);
  ASSERT_TRUE(client->Submit(kBody).ok());
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(client->Next(500).ok());
  const auto nothing = client->Next(2'500);
  ASSERT_TRUE(nothing.ok()) << nothing.error().message;
  EXPECT_FALSE(nothing->has_value());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(2'400));
}

TEST(Client, ADeadServiceIsGivenUp) {
  auto server = std::make_unique<FakeServer>(WithPong([](const Frame& frame) {
    return std::vector<FakeAction>{{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}}};
  }));
  const auto client = ConnectTo(*server);
  ASSERT_TRUE(client->Submit(kBody).ok());
  ASSERT_TRUE(client->Next(500).ok());
  server.reset();
  const auto event = client->Next(5'000);
  ASSERT_FALSE(event.ok());
  EXPECT_EQ(event.error().code, ErrorCode::kUnavailable);
}

TEST(Client, AnswersThatAreNoJsonAreErrors) {
  const FakeServer server(WithPong([](const Frame& frame) -> std::vector<FakeAction> {
    return {{{"accepted", frame.id, "{"}}};
  }));
  const auto client = ConnectTo(server);
  const auto completion = client->Generate(kBody);
  ASSERT_FALSE(completion.ok());
  EXPECT_EQ(completion.error().code, ErrorCode::kCorrupt);
}

TEST(Client, Status) {
  const FakeServer server(FakeService({}));
  const auto client = ConnectTo(server);
  const auto status = client->GetStatus(1'000);
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(status->state, "ready");
  EXPECT_EQ(status->layout.tp, 2);
  ASSERT_EQ(status->ranks.size(), 1u);
  EXPECT_TRUE(status->ranks[0].ready);
}

TEST(Client, ResumeOfAnUnknownRequestIsNotFound) {
  const FakeServer server(FakeService({}));
  const auto client = ConnectTo(server);
  ASSERT_TRUE(client->Resume("never-seen", 2).ok());
  const auto event = client->Next(1'000);
  ASSERT_TRUE(event.ok() && event->has_value());
  EXPECT_EQ(std::get<ServiceError>((*event)->body).error.code, ErrorCode::kNotFound);
}

TEST(Client, ResubmittingStartsTheStreamAgain) {
  const FakeServer server(FakeService({}));
  const auto client = ConnectTo(server);
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(client->Submit(kBody, "same").ok());
    Completion completion;
    while (true) {
      const auto event = client->Next(1'000, "same");
      ASSERT_TRUE(event.ok() && event->has_value());
      completion.Add(**event);
      if ((*event)->IsLast()) break;
    }
    EXPECT_EQ(completion.token_ids.size(), 5u) << "round " << round;
  }
}

TEST(Client, RequestIdsAreWellFormedAndDiffer) {
  const std::string id = NewRequestId();
  EXPECT_EQ(id.size(), 34u);
  EXPECT_EQ(id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-"), std::string::npos);
  EXPECT_NE(id, NewRequestId());
}

}  // namespace
}  // namespace echelon
