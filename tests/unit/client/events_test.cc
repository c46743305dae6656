#include "client/cpp/events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "client/cpp/request.h"

namespace echelon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json Parse(std::string_view text) {
  auto json = Json::Parse(text, "test");
  EXPECT_TRUE(json.ok());
  return json.ok() ? *json : Json();
}

TEST(Events, TokensWithLogprobs) {
  const auto event = DecodeTokens(
      Parse(R"({"seq":3,"token_ids":[5,6],"text":"ab","logprobs":[[{"id":5,"logprob":-0.5}],)"
            R"([{"id":1,"logprob":-0.1},{"id":6,"logprob":null}]]})"));
  ASSERT_TRUE(event.ok()) << event.error().message;
  EXPECT_EQ(event->seq, 3);
  EXPECT_THAT(event->token_ids, ElementsAre(5, 6));
  ASSERT_EQ(event->logprobs.size(), 2u);
  EXPECT_EQ(event->logprobs[0][0].logprob, -0.5);
  EXPECT_TRUE(std::isinf(event->logprobs[1][1].logprob));
}

TEST(Events, WrongFieldsAreNamed) {
  const struct {
    const char* body;
    const char* expected;
  } kCases[] = {
      {R"({"token_ids":[],"text":""})", "seq is missing"},
      {R"({"seq":-1,"token_ids":[],"text":""})", "seq"},
      {R"({"seq":1.5,"token_ids":[],"text":""})", "seq"},
      {R"({"seq":0,"token_ids":[-1],"text":""})", "token_ids"},
      {R"({"seq":0,"token_ids":[2147483648],"text":""})", "token_ids"},
      {R"({"seq":0,"token_ids":{},"text":""})", "token_ids is object"},
      {R"({"seq":0,"token_ids":[1],"text":"","logprobs":[]})", "0 rows for 1 tokens"},
      {R"({"seq":0,"token_ids":[1],"text":"","logprobs":[[{"id":1}]]})", "without id and logprob"},
      {R"([])", "not an object"},
  };
  for (const auto& test : kCases) {
    const auto event = DecodeTokens(Parse(test.body));
    ASSERT_FALSE(event.ok()) << test.body;
    EXPECT_THAT(event.error().message, HasSubstr(test.expected)) << test.body;
  }
}

TEST(Events, DoneCarriesRanksAndPromptLogprobs) {
  const auto event = DecodeDone(
      Parse(R"({"seq":2,"finish_reason":"length","text":"!","usage":{"prompt_tokens":2,)"
            R"("completion_tokens":2,"total_tokens":4},"timings":{"ttft_s":0.25,)"
            R"("decode_tokens_per_s":8},"seed":9,"layout":{"tp":2,"pp":3,"sp":1},)"
            R"("ranks":[{"rank":1,"host":"n1","steps":2,"compute_s":1.5,"comm_hidden_s":0.5,)"
            R"("comm_exposed_s":0.25}],"prompt_ids":[4,5],)"
            R"("prompt_logprobs":[null,[{"id":5,"logprob":-2}]]})"));
  ASSERT_TRUE(event.ok()) << event.error().message;
  EXPECT_EQ(event->finish_reason, "length");
  EXPECT_EQ(event->layout.pp, 3);
  ASSERT_EQ(event->ranks.size(), 1u);
  EXPECT_EQ(event->ranks[0].comm_exposed_s, 0.25);
  ASSERT_EQ(event->prompt_logprobs.size(), 2u);
  EXPECT_FALSE(event->prompt_logprobs[0].has_value());
  EXPECT_EQ((*event->prompt_logprobs[1])[0].logprob, -2.0);
  // The seed is required: without it an answer could not be repeated.
  EXPECT_FALSE(DecodeDone(Parse(R"({"seq":0,"finish_reason":"stop","text":"","usage":{},)"
                                R"("timings":{},"layout":{"tp":1,"pp":1,"sp":1}})"))
                   .ok());
}

TEST(Events, ErrorsKeepEveryField) {
  const auto event = DecodeServiceError(
      Parse(R"({"code":"resource_exhausted","message":"queue full","param":"prompt",)"
            R"("retryable":true,"retry_after_ms":250,"rank":3,"host":"n2"})"));
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->error.code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(event->error.field, "prompt");
  EXPECT_EQ(event->error.rank, 3);
  EXPECT_EQ(event->error.host, "n2");
  EXPECT_TRUE(event->retryable);
  EXPECT_EQ(event->retry_after_ms, 250);
  const auto plain = DecodeServiceError(
      Parse(R"({"code":"from_the_future","message":"m","param":null,"retryable":false,)"
            R"("retry_after_ms":null,"rank":null,"host":null})"));
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->error.code, ErrorCode::kInternal);
  EXPECT_EQ(plain->retry_after_ms, -1);
  EXPECT_EQ(plain->error.rank, -1);
}

TEST(Request, SendsOnlyWhatWasSet) {
  GenerationRequest request;
  request.prompt = std::string("hi");
  EXPECT_EQ(request.ToJson().Dump(), R"({"prompt":"hi"})");
  request.prompt = std::vector<int32_t>{1, 2};
  request.max_tokens = 0;
  request.logprobs = 2;
  request.stop = {"x"};
  request.ignore_eos = true;
  request.speculation = "prompt_lookup";
  EXPECT_EQ(request.ToJson().Dump(), R"({"prompt":[1,2],"max_tokens":0,"logprobs":2,"stop":["x"],)"
                                     R"("speculation":"prompt_lookup","ignore_eos":true})");
}

TEST(Request, ChatAsksForTopLogprobs) {
  GenerationRequest request;
  request.prompt = Parse(R"([{"role":"user","content":"hi"}])");
  request.logprobs = 5;
  EXPECT_EQ(request.ToJson().Dump(),
            R"({"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":5})");
}

}  // namespace
}  // namespace echelon
