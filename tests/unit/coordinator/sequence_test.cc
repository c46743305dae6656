#include "coordinator/sequence.h"

#include <gtest/gtest.h>

#include "tests/unit/coordinator/coordinator_rig.h"

namespace echelon {
namespace {

using testing::ByteTokenizer;

class SequenceTest : public ::testing::Test {
 protected:
  Sequence Make(Request request, int32_t max_tokens = 10) {
    Sequence sequence(1, std::move(request), tokenizer_);
    sequence.SetPrompt({1, 2, 3}, max_tokens);
    return sequence;
  }
  static SampledToken Token(int32_t id, float logit = 1.5f) { return {id, logit, {}}; }
  ByteTokenizer tokenizer_;
};

TEST_F(SequenceTest, KnowsEveryTokenByPosition) {
  Sequence s = Make({});
  s.Append(Token('a'), 5);
  s.Append(Token('b'), 6);
  EXPECT_EQ(s.known_size(), 5);
  EXPECT_EQ(s.TokenAt(2), 3);
  EXPECT_EQ(s.TokenAt(4), 'b');
  EXPECT_EQ(s.times.first_token, 5);
  EXPECT_EQ(s.times.last_token, 6);
}

TEST_F(SequenceTest, EndOfTextStopsAndStaysInTheLogWithoutText) {
  Sequence s = Make({});
  s.Append(Token('a'), 1);
  s.Append(Token(ByteTokenizer::kEnd), 2);
  EXPECT_EQ(s.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(s.generated(), 2);
  EXPECT_EQ(s.log()[1].text, "");
}

TEST_F(SequenceTest, IgnoreEosGoesOn) {
  Request request;
  request.ignore_eos = true;
  Sequence s = Make(request);
  s.Append(Token(ByteTokenizer::kEnd), 2);
  EXPECT_FALSE(s.finished());
}

TEST_F(SequenceTest, StopTokenIdsEndIt) {
  Request request;
  request.stop_token_ids = {'q'};
  Sequence s = Make(request);
  s.Append(Token('q'), 2);
  EXPECT_EQ(s.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(s.log()[0].text, "q");
}

TEST_F(SequenceTest, StopStringEndsItAndIsNotInTheText) {
  Request request;
  request.stop = {"bc"};
  Sequence s = Make(request);
  for (const char c : {'a', 'b', 'c'}) s.Append(Token(c), 2);
  EXPECT_EQ(s.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(s.log()[0].text + s.log()[1].text + s.log()[2].text + s.rest_text(), "a");
  EXPECT_EQ(s.generated(), 3);
}

TEST_F(SequenceTest, LengthEndsItAndReleasesWhatWasHeldBack) {
  Request request;
  request.stop = {"bc"};
  Sequence s = Make(request, 2);
  s.Append(Token('a'), 1);
  s.Append(Token('b'), 2);
  EXPECT_EQ(s.finish_reason(), FinishReason::kLength);
  EXPECT_EQ(s.rest_text(), "b");
}

TEST_F(SequenceTest, RollingHashTellsTokenAndLogitApart) {
  Sequence a = Make({}), b = Make({}), c = Make({});
  a.Append(Token('a', 1.0f), 1);
  b.Append(Token('a', 1.0000001f), 1);
  c.Append(Token('b', 1.0f), 1);
  EXPECT_NE(a.log()[0].hash, b.log()[0].hash);
  EXPECT_NE(a.log()[0].hash, c.log()[0].hash);
}

TEST_F(SequenceTest, ReplayMatchesBitForBitOnly) {
  Sequence s = Make({});
  s.Append(Token('a', 1.0f), 1);
  EXPECT_TRUE(s.MatchesLog(0, Token('a', 1.0f)));
  EXPECT_FALSE(s.MatchesLog(0, Token('a', 1.0000001f)));
  EXPECT_FALSE(s.MatchesLog(0, Token('b', 1.0f)));
}

TEST_F(SequenceTest, ReplayedPromptLogprobsAreNotDoubled) {
  Sequence s = Make({});
  s.AddPromptLogprobs(0, {{{10, -1.f}}, {{11, -1.f}}});
  s.AddPromptLogprobs(0, {{{10, -1.f}}});
  s.AddPromptLogprobs(2, {{{11, -1.f}}, {{12, -1.f}}});
  ASSERT_EQ(s.prompt_logprobs().size(), 3u);
  EXPECT_EQ(s.prompt_logprobs()[2][0].id, 12);
}

TEST_F(SequenceTest, ErrorKeepsTheLog) {
  Sequence s = Make({});
  s.Append(Token('a'), 1);
  s.Fail(Unavailable("gone"), 3, 100);
  EXPECT_EQ(s.finish_reason(), FinishReason::kError);
  EXPECT_EQ(s.error()->message, "gone");
  EXPECT_EQ(s.generated(), 1);
  EXPECT_EQ(s.retry_after_ms(), 100);
}

}  // namespace
}  // namespace echelon
