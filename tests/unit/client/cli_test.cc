// The parts of the subcommands that need no service, and those that a fake one can serve.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "client/cli/answer.h"
#include "client/cli/child_process.h"
#include "client/cli/input.h"
#include "client/cli/perplexity.h"
#include "client/cli/progress.h"
#include "client/cli/service.h"
#include "client/testing/fake_server.h"
#include "common/clock.h"
#include "common/strings.h"

namespace echelon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TempFolder {
 public:
  TempFolder() {
    std::string path = (std::filesystem::temp_directory_path() / "client-test-XXXXXX").string();
    path_ = mkdtemp(path.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
    return path_ + "/" + name;
  }
  std::string Path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

TEST(Input, CharactersAreUnicodeCharacters) {
  EXPECT_EQ(FirstCharacters("aé漢🦜z", 0), "aé漢🦜z");
  EXPECT_EQ(FirstCharacters("aé漢🦜z", 1), "a");
  EXPECT_EQ(FirstCharacters("aé漢🦜z", 2), "aé");
  EXPECT_EQ(FirstCharacters("aé漢🦜z", 4), "aé漢🦜");
  EXPECT_EQ(FirstCharacters("aé漢🦜z", 99), "aé漢🦜z");
}

TEST(Input, MessagesAreABareArray) {
  const TempFolder folder;
  const auto good = ReadMessages(folder.Write("a", R"([{"role":"user","content":"hi"}])"));
  ASSERT_TRUE(good.ok()) << good.error().message;
  EXPECT_FALSE(ReadMessages(folder.Write("b", R"({"messages":[]})")).ok());
  EXPECT_FALSE(ReadMessages(folder.Write("c", "[")).ok());
  EXPECT_FALSE(ReadMessages(folder.Write("d", "[\"\xff\"]")).ok());
  EXPECT_FALSE(ReadMessages(folder.Path("missing")).ok());
}

TEST(Input, TextFilesHaveALimit) {
  const TempFolder folder;
  const std::string path = folder.Write("t", "12345678");
  EXPECT_EQ(*ReadUtf8File(path, 8), "12345678");
  EXPECT_FALSE(ReadUtf8File(path, 7).ok());
}

ServiceStatus Loading(int64_t done) {
  ServiceStatus status;
  status.state = "loading";
  status.ranks = {{0, "n1", "cpu", done, 1000, true, false}, {1, "", "", 0, 0, false, false}};
  return status;
}

TEST(Progress, PlainLinesComeEveryTwoSeconds) {
  ManualClock clock;
  ProgressView view(clock, false);
  clock.AdvanceUs(10'000'000);
  EXPECT_THAT(view.Update(Loading(100)), HasSubstr("rank 1 has not joined"));
  clock.AdvanceUs(1'000'000);
  EXPECT_EQ(view.Update(Loading(200)), "");
  clock.AdvanceUs(1'000'000);
  const std::string line = view.Update(Loading(300));
  EXPECT_THAT(line, HasSubstr("rank 0 (n1)"));
  EXPECT_EQ(line.find('\033'), std::string::npos);
  EXPECT_EQ(line.back(), '\n');
}

TEST(Progress, BarsAreRedrawnInPlace) {
  ManualClock clock;
  ProgressView view(clock, true);
  clock.AdvanceUs(1'000'000);
  const std::string first = view.Update(Loading(500));
  EXPECT_THAT(first, HasSubstr("############............"));  // half of 24 cells
  EXPECT_EQ(first.find('\033'), std::string::npos);
  clock.AdvanceUs(200'000);
  EXPECT_THAT(view.Update(Loading(1000)), HasSubstr("\033[3A"));  // two ranks and the state
}

TEST(Announcement, NeedsTheEndpoint) {
  const auto good = ParseAnnouncement(R"({"endpoint":"tcp://127.0.0.1:9","metrics":"h:1"})");
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good->endpoint, "tcp://127.0.0.1:9");
  EXPECT_EQ(good->metrics, "h:1");
  EXPECT_FALSE(ParseAnnouncement("").ok());
  EXPECT_FALSE(ParseAnnouncement("{}").ok());
}

TEST(Answer, JsonHasTheFixedShape) {
  Completion answer;
  answer.token_ids = {5, 6};
  answer.text = "ab";
  answer.logprobs = {{{5, -0.5}}, {{1, -0.1}, {6, -2.0}}};
  answer.done.finish_reason = "length";
  answer.done.prompt_ids = {1};
  answer.done.ttft_s = 0.25;
  answer.done.decode_tokens_per_s = 8.0;
  answer.done.layout = {2, 1, 1};
  EXPECT_EQ(CompletionToJson(answer).Dump(),
            R"({"prompt_ids":[1],"token_ids":[5,6],"text":"ab","finish_reason":"length",)"
            R"("logprobs":[[{"id":5,"logprob":-0.5}],[{"id":1,"logprob":-0.1},)"
            R"({"id":6,"logprob":-2}]],"timings":{"ttft_s":0.25,"decode_tokens_per_s":8},)"
            R"("layout":{"tp":2,"pp":1,"sp":1}})");
  answer.done.prompt_logprobs = {std::nullopt, LogprobRow{{7, -1.0}}};
  EXPECT_THAT(CompletionToJson(answer).Dump(),
              HasSubstr(R"("prompt_logprobs":[null,[{"id":7,"logprob":-1}]])"));
}

TEST(Answer, SeedsAreDrawnAndExactInADouble) {
  const int64_t seed = DrawSeed();
  EXPECT_GE(seed, 0);
  EXPECT_LT(seed, int64_t{1} << 53);
  EXPECT_NE(seed, DrawSeed());
}

// Answers each submit with -log p = 0.5 for every token of its prompt but the first; the first
// `refusals` submits are refused for now.
FakeServer::Handler TeacherForcing(int refusals) {
  auto left = std::make_shared<int>(refusals);
  return WithPong([left](const Frame& frame) -> std::vector<FakeAction> {
    if ((*left)-- > 0) {
      return {{{"error", frame.id,
                R"({"code":"resource_exhausted","message":"full","param":null,"retryable":true,)"
                R"("retry_after_ms":1})"}}};
    }
    const auto body = Json::Parse(frame.body, "submit");
    const Json::Array& ids = body->Find("prompt")->as_array();
    std::string rows = "null";
    for (size_t i = 1; i < ids.size(); ++i) {
      rows += StrCat(R"(,[{"id":)", ids[i].as_int(), R"(,"logprob":-0.5}])");
    }
    return {{{"accepted", frame.id, R"({"prompt_tokens":1,"seed":1})"}},
            {{"done", frame.id,
              StrCat(R"({"seq":0,"finish_reason":"length","text":"","usage":{"prompt_tokens":1,)"
                     R"("completion_tokens":0},"timings":{},"seed":1,)"
                     R"("layout":{"tp":1,"pp":1,"sp":1},"prompt_logprobs":[)",
                     rows, "]}")}}};
  });
}

Result<PerplexityResult> Measure(const FakeServer& server, size_t tokens, int64_t window) {
  ClientOptions options;
  options.endpoint = server.endpoint();
  const auto client = Client::Connect(options);
  EXPECT_TRUE(client.ok());
  std::vector<int32_t> ids;
  for (size_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>(10 + i));
  return MeasurePerplexity(**client, ids, window, 3, [](int64_t, int64_t) { return Status(); });
}

TEST(Perplexity, EveryTokenButAWindowsFirstIsPredicted) {
  const FakeServer server(TeacherForcing(0));
  // 10 tokens in windows of 4: 4 + 4 + 2, so 3 + 3 + 1 are predicted.
  const auto result = Measure(server, 10, 4);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->predicted, 7);
  EXPECT_DOUBLE_EQ(result->perplexity, std::exp(0.5));
  // A last window of one token predicts nothing and is not sent.
  const auto ragged = Measure(server, 9, 4);
  ASSERT_TRUE(ragged.ok());
  EXPECT_EQ(ragged->predicted, 6);
  EXPECT_FALSE(Measure(server, 1, 4).ok());
}

TEST(Perplexity, AFullQueueIsAskedAgain) {
  const FakeServer server(TeacherForcing(4));
  const auto result = Measure(server, 32, 4);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->predicted, 24);
}

TEST(ChildProcess, NothingItStartedSurvives) {
  const TempFolder folder;
  // The shell leaves a process of its own session behind, as mpirun's ranks are.
  const std::string script =
      folder.Write("s.sh", StrCat("#!/bin/sh\nsetsid sh -c 'echo $$ > ", folder.Path("orphan"),
                                  "; exec sleep 100' &\nwhile [ ! -s ", folder.Path("orphan"),
                                  " ]; do sleep 0.01; done\nexit 3\n"));
  const auto child = ChildProcess::Start("/bin/sh", {script}, folder.Path("log"));
  ASSERT_TRUE(child.ok()) << child.error().message;
  while (!(*child)->Poll()) usleep(10'000);
  EXPECT_EQ((*child)->Stop(0), 3);
  pid_t orphan = 0;
  std::ifstream(folder.Path("orphan")) >> orphan;
  ASSERT_GT(orphan, 0);
  EXPECT_EQ(kill(orphan, 0), -1) << "process " << orphan << " is still there";
}

TEST(ChildProcess, ADeafChildIsKilled) {
  const TempFolder folder;
  const std::string script =
      folder.Write("s.sh", StrCat("#!/bin/sh\ntrap '' TERM\ntouch ", folder.Path("ready"),
                                  "\nwhile true; do sleep 0.05; done\n"));
  const auto child = ChildProcess::Start("/bin/sh", {script}, folder.Path("log"));
  ASSERT_TRUE(child.ok());
  while (!std::filesystem::exists(folder.Path("ready"))) usleep(10'000);
  EXPECT_EQ((*child)->Stop(100), 128 + SIGKILL);
}

TEST(ChildProcess, AMissingProgramIsAnError) {
  EXPECT_FALSE(ChildProcess::Start("/no/such/program", {}, "").ok());
}

}  // namespace
}  // namespace echelon
