#include "coordinator/prompt_encoder.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <set>

#include "tests/support/coordinator_fakes.h"

namespace echelon {
namespace {

using testing::ByteTokenizer;

std::unique_ptr<ChatTemplate> Template(const std::string& source) {
  auto parsed = ParseChatTemplate(source);
  EXPECT_TRUE(parsed.ok()) << (parsed.ok() ? "" : parsed.error().message);
  return parsed.ok() ? std::move(parsed).value() : nullptr;
}
Json Conversation(const std::string& content) {
  return Json::Parse(R"([{"role":"user","content":")" + content + R"("}])", "m").value();
}

TEST(EncodePrompt, ARawPromptGetsTheDefaultSpecialTokens) {
  EXPECT_EQ(EncodePrompt(ByteTokenizer(), nullptr, {1, "hi", {}}).value(),
            (std::vector<int32_t>{ByteTokenizer::kBos, 'h', 'i'}));
}

TEST(EncodePrompt, MessagesAreRenderedWithoutThem) {
  const auto chat = Template("{% for m in messages %}<{{ m.content }}>{% endfor %}");
  EXPECT_EQ(EncodePrompt(ByteTokenizer(), chat.get(), {1, {}, Conversation("hi")}).value(),
            (std::vector<int32_t>{'<', 'h', 'i', '>'}));
}

TEST(EncodePrompt, ErrorsNameMessages) {
  const auto none = EncodePrompt(ByteTokenizer(), nullptr, {1, {}, Conversation("hi")});
  EXPECT_EQ(none.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(none.error().field, "messages");
  const auto chat = Template("{{ raise_exception('roles must alternate') }}");
  const auto raised = EncodePrompt(ByteTokenizer(), chat.get(), {1, {}, Conversation("hi")});
  ASSERT_FALSE(raised.ok());
  EXPECT_EQ(raised.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(raised.error().field, "messages");
  const auto empty = Template("");
  EXPECT_FALSE(EncodePrompt(ByteTokenizer(), empty.get(), {1, {}, Conversation("hi")}).ok());
}

TEST(ThreadedEncoder, EveryJobComesBackAndWakesThePoller) {
  const ByteTokenizer tokenizer;
  const auto encoder = MakeThreadedEncoder(tokenizer, nullptr, 1000);
  for (uint64_t ticket = 1; ticket <= 100; ++ticket) {
    ASSERT_TRUE(encoder->Submit({ticket, std::string(ticket, 'a'), {}}));
  }
  std::set<uint64_t> seen;
  while (seen.size() < 100) {
    pollfd fd = {encoder->wake_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&fd, 1, 5000), 1);
    for (const EncodedPrompt& done : encoder->Take()) {
      EXPECT_TRUE(seen.insert(done.ticket).second);
      EXPECT_EQ(done.ids.value().size(), done.ticket + 1);
    }
  }
  EXPECT_TRUE(encoder->Take().empty());
}

TEST(ThreadedEncoder, TheQueueIsBounded) {
  const ByteTokenizer tokenizer;
  const auto encoder = MakeThreadedEncoder(tokenizer, nullptr, 2);
  int refused = 0;
  for (uint64_t ticket = 1; ticket <= 200; ++ticket) {
    refused += encoder->Submit({ticket, std::string(100'000, 'a'), {}}) ? 0 : 1;
  }
  EXPECT_GT(refused, 0);
}

TEST(ThreadedEncoder, AJobThatIsDroppedIsNotDone) {
  const ByteTokenizer tokenizer;
  const auto encoder = MakeThreadedEncoder(tokenizer, nullptr, 4);
  ASSERT_TRUE(encoder->Submit({1, std::string(30'000'000, 'a'), {}}));  // takes a while
  ASSERT_TRUE(encoder->Submit({2, "dropped", {}}));
  ASSERT_TRUE(encoder->Submit({3, "kept", {}}));
  encoder->Drop(2);
  encoder->Drop(2);
  std::vector<uint64_t> done;
  while (done.size() < 2) {
    pollfd fd = {encoder->wake_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&fd, 1, 5000), 1);
    for (const EncodedPrompt& prompt : encoder->Take()) done.push_back(prompt.ticket);
  }
  EXPECT_EQ(done, (std::vector<uint64_t>{1, 3}));
}

}  // namespace
}  // namespace echelon
