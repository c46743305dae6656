#include "coordinator/client_api.h"

#include <gtest/gtest.h>

#include "common/strings.h"
#include "tests/support/coordinator_fakes.h"

namespace echelon {
namespace {

constexpr SubmitLimits kLimits = {1000, 0};

Result<Request> Parse(const std::string& body) { return ParseSubmit("r", body, kLimits); }

TEST(ClientApi, DefaultsAreTheDocumentedOnes) {
  const Request r = Parse(R"({"prompt":"hello"})").value();
  EXPECT_EQ(r.prompt_text, "hello");
  EXPECT_EQ(r.params, SamplingParams());
  EXPECT_FALSE(r.max_tokens.has_value());
  EXPECT_FALSE(r.seed_given);
  EXPECT_TRUE(r.stream);
  EXPECT_EQ(r.deadline_ms, 0);
  EXPECT_FALSE(r.speculate);
}

TEST(ClientApi, SpeculationIsTheServicesUnlessTheRequestSays) {
  const SubmitLimits on = {1000, 0, true};
  EXPECT_TRUE(ParseSubmit("r", R"({"prompt":"x"})", on)->speculate);
  EXPECT_FALSE(ParseSubmit("r", R"({"prompt":"x","speculation":"off"})", on)->speculate);
}

TEST(ClientApi, EveryFieldIsRead) {
  const Request r =
      Parse(R"({"prompt":[1,2],"max_tokens":5,"temperature":0.5,"top_p":0.9,"top_k":40,
    "min_p":0.1,"repetition_penalty":1.2,"presence_penalty":-1,"frequency_penalty":2,
    "logit_bias":{"7":-100,"3":1.5},"seed":9223372036854775807,"stop":["a","b"],
    "stop_token_ids":[4],"ignore_eos":true,"logprobs":3,"prompt_logprobs":2,"n":1,
    "deadline_ms":100,"stream":false,"speculation":"prompt_lookup","model":"anything","unknown":{"x":1}})")
          .value();
  EXPECT_EQ(r.prompt_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(r.max_tokens, 5);
  EXPECT_FLOAT_EQ(r.params.temperature, 0.5f);
  EXPECT_FLOAT_EQ(r.params.top_p, 0.9f);
  EXPECT_EQ(r.params.top_k, 40);
  EXPECT_FLOAT_EQ(r.params.min_p, 0.1f);
  EXPECT_FLOAT_EQ(r.params.repetition_penalty, 1.2f);
  EXPECT_FLOAT_EQ(r.params.presence_penalty, -1.0f);
  EXPECT_FLOAT_EQ(r.params.frequency_penalty, 2.0f);
  EXPECT_EQ(r.params.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, 1.5f}, {7, -100.0f}}));
  EXPECT_EQ(r.params.seed, 9223372036854775807ULL);
  EXPECT_TRUE(r.seed_given);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.stop_token_ids, std::vector<int32_t>{4});
  EXPECT_TRUE(r.ignore_eos);
  EXPECT_EQ(r.params.logprobs, 3);
  EXPECT_EQ(r.params.prompt_logprobs, 2);
  EXPECT_EQ(r.deadline_ms, 100);
  EXPECT_FALSE(r.stream);
  EXPECT_TRUE(r.speculate);
}

TEST(ClientApi, NullIsAsGoodAsAbsent) {
  EXPECT_TRUE(Parse(R"({"prompt":"x","messages":null,"stop":null,"seed":null,"max_tokens":null,
    "logprobs":null,"tools":null,"logit_bias":null})")
                  .ok());
}

TEST(ClientApi, ChatFormOfLogprobs) {
  EXPECT_EQ(Parse(R"({"prompt":"x","logprobs":true,"top_logprobs":5})")->params.logprobs, 5);
  EXPECT_EQ(Parse(R"({"prompt":"x","logprobs":true})")->params.logprobs, 0);
  EXPECT_EQ(Parse(R"({"prompt":"x","logprobs":false})")->params.logprobs, -1);
}

TEST(ClientApi, ASingleStopStringAndMinusOneTopK) {
  const Request r = Parse(R"({"prompt":"x","stop":"END","top_k":-1})").value();
  EXPECT_EQ(r.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(r.params.top_k, 0);
}

TEST(ClientApi, MaxCompletionTokensIsTheSameField) {
  EXPECT_EQ(Parse(R"({"prompt":"x","max_completion_tokens":4})")->max_tokens, 4);
  EXPECT_EQ(Parse(R"({"prompt":"x","max_completion_tokens":4,"max_tokens":5})").error().field,
            "max_completion_tokens");
}

// Each bad field is named, and so is what would be allowed.
struct BadCase {
  const char* field;
  const char* value;
  const char* says;
};
class ClientApiBad : public ::testing::TestWithParam<BadCase> {};

TEST_P(ClientApiBad, NamesTheFieldAndTheLimit) {
  const BadCase& bad = GetParam();
  const auto request = Parse(StrCat(R"({"prompt":"x",")", bad.field, "\":", bad.value, "}"));
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(request.error().field, bad.field) << request.error().message;
  EXPECT_NE(request.error().message.find(bad.says), std::string::npos) << request.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    All, ClientApiBad,
    ::testing::Values(
        BadCase{"max_tokens", "-1", "from 0"}, BadCase{"max_tokens", "2147483648", "from 0"},
        BadCase{"max_tokens", "1.5", "integer"}, BadCase{"max_tokens", "\"5\"", "not string"},
        BadCase{"max_tokens", "18446744073709551615", "integer"},
        BadCase{"temperature", "-0.1", "from 0 to 100"},
        BadCase{"temperature", "101", "from 0 to 100"},
        BadCase{"temperature", "\"NaN\"", "not string"}, BadCase{"temperature", "true", "number"},
        BadCase{"top_p", "0", "above 0 to 1"}, BadCase{"top_p", "1.0001", "above 0 to 1"},
        BadCase{"top_p", "1e-60", "above 0"}, BadCase{"top_k", "-2", "from -1"},
        BadCase{"top_k", "1e3", "integer"}, BadCase{"min_p", "-1e-9", "from 0 to 1"},
        BadCase{"min_p", "2", "from 0 to 1"},
        BadCase{"repetition_penalty", "0", "from 1e-06 to 100"},
        BadCase{"presence_penalty", "-101", "from -100"},
        BadCase{"frequency_penalty", "1e300", "to 100"}, BadCase{"logit_bias", "[1]", "object"},
        BadCase{"logit_bias", R"({"1000":1})", "from 0 to 999"},
        BadCase{"logit_bias", R"({"-1":1})", "from 0 to 999"},
        BadCase{"logit_bias", R"({"1x":1})", "no token id"},
        BadCase{"logit_bias", R"({"":1})", "no token id"},
        BadCase{"logit_bias", R"({"7":1,"07":2})", "twice"},
        BadCase{"logit_bias", R"({"1":101})", "-100 to 100"},
        BadCase{"logit_bias", R"({"1":"a"})", "numbers"}, BadCase{"seed", "-1", "from 0"},
        BadCase{"seed", "9223372036854775808", "from 0"}, BadCase{"seed", "0.5", "integer"},
        BadCase{"stop", "5", "string"}, BadCase{"stop", "[1]", "strings"},
        BadCase{"stop", "[\"\"]", "1 to 256"}, BadCase{"stop", "\"\"", "1 to 256"},
        BadCase{"stop_token_ids", "[-1]", "from 0 to 999"}, BadCase{"stop_token_ids", "3", "array"},
        BadCase{"ignore_eos", "1", "bool"}, BadCase{"stream", "\"yes\"", "bool"},
        BadCase{"logprobs", "21", "from 0 to 20"}, BadCase{"logprobs", "-1", "from 0 to 20"},
        BadCase{"top_logprobs", "21", "from 0 to 20"},
        BadCase{"top_logprobs", "3", "logprobs true"},
        BadCase{"prompt_logprobs", "2147483648", "from 0 to 20"}, BadCase{"n", "2", "from 1 to 1"},
        BadCase{"n", "0", "from 1 to 1"}, BadCase{"best_of", "3", "from 1 to 1"},
        BadCase{"speculation", "true", "string"},
        BadCase{"speculation", "\"draft_model\"", "prompt_lookup"},
        BadCase{"deadline_ms", "0", "from 1"}, BadCase{"deadline_ms", "1e30", "integer"}));

TEST(ClientApi, TooManyOrTooLong) {
  std::string stops = "[\"a\"";
  for (int i = 0; i < 16; ++i) stops += ",\"a\"";
  EXPECT_EQ(Parse(StrCat(R"({"prompt":"x","stop":)", stops, "]}")).error().field, "stop");
  EXPECT_EQ(Parse(StrCat(R"({"prompt":"x","stop":")", std::string(257, 'a'), "\"}")).error().field,
            "stop");
  std::string ids = "[1";
  for (int i = 0; i < 64; ++i) ids += ",1";
  EXPECT_EQ(Parse(StrCat(R"({"prompt":"x","stop_token_ids":)", ids, "]}")).error().field,
            "stop_token_ids");
  std::string bias = "\"0\":1";
  for (int i = 1; i <= 1024; ++i) bias += StrCat(",\"", i, "\":1");
  EXPECT_EQ(Parse(StrCat(R"({"prompt":"x","logit_bias":{)", bias, "}}")).error().field,
            "logit_bias");
}

TEST(ClientApi, PromptForms) {
  for (const char* bad :
       {"{}", R"({"prompt":""})", R"({"prompt":[]})", R"({"prompt":5})", R"({"prompt":[1000]})",
        R"({"prompt":["a"]})", R"({"prompt":[[1]]})", R"({"prompt":"x","messages":[]})"}) {
    const auto request = Parse(bad);
    ASSERT_FALSE(request.ok()) << bad;
    EXPECT_EQ(request.error().field, "prompt") << bad;
  }
  EXPECT_TRUE(Parse(R"({"messages":[{"role":"user","content":"hi"}]})").ok());
  EXPECT_EQ(Parse(R"({"messages":[]})").error().field, "messages");
  EXPECT_EQ(Parse(R"({"messages":[{"role":"user"}]})").error().field, "messages[0].content");
  EXPECT_EQ(Parse(R"({"messages":[{"role":1,"content":""}]})").error().field, "messages[0].role");
  EXPECT_EQ(Parse(R"({"messages":["hi"]})").error().field, "messages[0]");
}

TEST(ClientApi, BodiesThatAreNoObjects) {
  for (const char* bad : {"", "[]", "5", "{", "{}x", R"({"prompt":"a","prompt":"b"})",
                          R"({"prompt":"x","temperature":1e400})",
                          R"({"prompt":"x","temperature":NaN})", "{\"prompt\":\"\xFF\"}"}) {
    const auto request = Parse(bad);
    ASSERT_FALSE(request.ok()) << bad;
    EXPECT_EQ(request.error().code, ErrorCode::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(Parse(StrCat(R"({"prompt":"x","y":)", std::string(100000, '['))).ok());
}

TEST(ClientApi, WhatWouldChangeTheAnswerIsRefusedNotIgnored) {
  const auto request = Parse(R"({"prompt":"x","tools":[{"type":"function"}]})");
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(request.error().field, "tools");
  EXPECT_FALSE(Parse(R"({"prompt":"x","response_format":{"type":"json_object"}})").ok());
  EXPECT_TRUE(
      Parse(R"({"prompt":"x","response_format":{"type":"text"},"tools":[],"echo":false})").ok());
}

TEST(ClientApi, WhatOthersCallItIsNamedAsWeDo) {
  for (const char* field : {"min_tokens", "guided_json", "grammar", "tool_choice", "bad_words"}) {
    const auto refused = Parse(StrCat(R"({"prompt":"x",")", field, R"(":["y"]})"));
    ASSERT_FALSE(refused.ok()) << field;
    EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(refused.error().field, field);
  }
  EXPECT_NE(Parse(R"({"prompt":"x","n_predict":5})").error().message.find("max_tokens"),
            std::string::npos);
  EXPECT_TRUE(Parse(R"({"prompt":"x","min_tokens":0,"chat_template_kwargs":{},
                        "tool_choice":"none"})")
                  .ok());
}

TEST(ClientApi, ContentOfTextPartsIsOneText) {
  const auto request = Parse(R"({"messages":[{"role":"user","content":[
      {"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"n"}]})");
  ASSERT_TRUE(request.ok()) << request.error().message;
  EXPECT_EQ(request->messages.Dump(), R"([{"role":"user","content":"a\nb","name":"n"}])");
  const auto picture = Parse(
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})");
  ASSERT_FALSE(picture.ok());
  EXPECT_EQ(picture.error().code, ErrorCode::kUnsupported);
}

// A plan with a parameter that workers refuse would end the group.
TEST(ClientApi, APenaltyTooSmallForTheWorkersIsRefusedHere) {
  const auto least = Parse(R"({"prompt":"x","repetition_penalty":1e-6})");
  ASSERT_TRUE(least.ok()) << least.error().message;
  EXPECT_EQ(least->params.repetition_penalty, kRepetitionPenaltyMin);
  EXPECT_FALSE(Parse(R"({"prompt":"x","repetition_penalty":9.9e-7})").ok());
}

TEST(ClientApi, RequestIds) {
  EXPECT_TRUE(IsValidRequestId("a.B_9:-"));
  EXPECT_TRUE(IsValidRequestId(std::string(64, 'a')));
  for (const std::string& bad :
       {std::string(), std::string(65, 'a'), std::string("a b"), std::string("a\0b", 3),
        std::string("\xC3\xA9"), std::string("a/b")}) {
    EXPECT_FALSE(IsValidRequestId(bad));
  }
}

TEST(ClientApi, Resume) {
  EXPECT_EQ(ParseResume("{}").value(), 0);
  EXPECT_EQ(ParseResume(R"({"seq":7})").value(), 7);
  EXPECT_EQ(ParseResume(R"({"seq":-1})").error().field, "seq");
  EXPECT_EQ(ParseResume(R"({"seq":"7"})").error().field, "seq");
}

TEST(ClientApi, BodyHashTellsBodiesApart) {
  EXPECT_EQ(Parse(R"({"prompt":"x"})")->body_hash, Parse(R"({"prompt":"x"})")->body_hash);
  EXPECT_NE(Parse(R"({"prompt":"x"})")->body_hash, Parse(R"({"prompt":"y"})")->body_hash);
}

TEST(ClientApi, ErrorBodyHasEveryField) {
  Error error = Unavailable("rank died");
  error.rank = 1;
  error.host = "n2";
  EXPECT_EQ(ErrorBody(error, 1000),
            R"({"code":"unavailable","message":"rank died","param":null,"retryable":true,)"
            R"("retry_after_ms":1000,"rank":1,"host":"n2"})");
  EXPECT_EQ(ErrorBody(InvalidArgument("bad", "top_p")),
            R"({"code":"invalid_argument","message":"bad","param":"top_p","retryable":false,)"
            R"("retry_after_ms":null,"rank":null,"host":null})");
}

TEST(ClientApi, EventsOfASequence) {
  const testing::ByteTokenizer tokenizer;
  Request request = Parse(R"({"prompt":"x","logprobs":1,"prompt_logprobs":0,"seed":3})").value();
  Sequence sequence(1, request, tokenizer);
  sequence.SetPrompt({5, 6}, 2);
  sequence.times.accepted = 1'000'000;
  sequence.times.first_planned = 1'500'000;
  sequence.AddPromptLogprobs(0, {{{6, -2.0f}}});
  sequence.Append({'h', 1.0f, {{'h', -0.5f}}}, 2'000'000);
  sequence.Append({'i', 1.0f, {{'i', -0.25f}}}, 2'500'000);
  sequence.drafts = {5, 4};
  sequence.AddTimings({{0, 1.0f, 0.5f, 0.25f}});
  ServiceFacts facts{"m", 2, 1, 1, "standard", {"n1"}};
  EXPECT_EQ(AcceptedBody(sequence, facts, 99),
            R"({"prompt_tokens":2,"max_tokens":2,"seed":3,"model":"m","created":99})");
  EXPECT_EQ(TokensBody(sequence, 0, 2),
            R"({"seq":0,"token_ids":[104,105],"text":"hi","logprobs":[[{"id":104,"logprob":-0.5}],)"
            R"([{"id":105,"logprob":-0.25}]]})");
  EXPECT_EQ(
      DoneBody(sequence, facts),
      R"({"seq":2,"finish_reason":"length","text":"","usage":{"prompt_tokens":2,)"
      R"("completion_tokens":2,"total_tokens":4},"timings":{"queue_s":0.5,"ttft_s":1,)"
      R"("decode_tokens_per_s":2,"total_s":1.5,"tokens_drafted":5,"drafts_accepted":4},"seed":3,"layout":{"tp":2,"pp":1,"sp":1},)"
      R"("ranks":[{"rank":0,"host":"n1","steps":1,"compute_s":1,"comm_hidden_s":0.5,)"
      R"("comm_exposed_s":0.25}],"prompt_ids":[5,6],)"
      R"("prompt_logprobs":[null,[{"id":6,"logprob":-2}]]})");
}

}  // namespace
}  // namespace echelon
