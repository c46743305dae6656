#include "client/cli/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/errors.h"

namespace echelon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Options>
Options ParseAs(const std::vector<std::string>& arguments) {
  const auto parsed = ParseCommandLine(arguments);
  if (!parsed.ok()) {
    ADD_FAILURE() << parsed.error().message;
    return {};
  }
  return std::get<Options>(std::get<Command>(*parsed));
}

std::string ErrorOf(const std::vector<std::string>& arguments) {
  const auto parsed = ParseCommandLine(arguments);
  if (parsed.ok()) return "";
  EXPECT_EQ(ExitStatusOf(parsed.error()), kExitUsage);
  return parsed.error().message;
}

TEST(CommandLine, GenerateDefaults) {
  const auto options = ParseAs<GenerateOptions>({"generate", "--model", "m", "--prompt", "hi"});
  EXPECT_EQ(options.sampling.max_tokens, 128);
  EXPECT_EQ(options.sampling.temperature, 1.0);
  EXPECT_FALSE(options.sampling.seed.has_value());
  EXPECT_FALSE(options.service.tp.has_value());
  EXPECT_EQ(options.service.backend, "auto");
  EXPECT_EQ(options.service.threads, 0);
  EXPECT_FALSE(options.json);
}

TEST(CommandLine, GenerateWithEverything) {
  const auto options = ParseAs<GenerateOptions>({"generate",
                                                 "--model",
                                                 "m",
                                                 "--tp",
                                                 "3",
                                                 "--pp",
                                                 "2",
                                                 "--sp",
                                                 "1",
                                                 "--threads",
                                                 "4",
                                                 "--backend",
                                                 "reference",
                                                 "--schedule",
                                                 "ladder",
                                                 "--ladder-layers",
                                                 "last:10",
                                                 "--prompt-ids",
                                                 "1,2,3",
                                                 "--max-tokens",
                                                 "0",
                                                 "--temperature",
                                                 "0",
                                                 "--seed",
                                                 "7",
                                                 "--logprobs",
                                                 "5",
                                                 "--prompt-logprobs",
                                                 "0",
                                                 "--speculation",
                                                 "prompt_lookup",
                                                 "--ignore-eos",
                                                 "--json",
                                                 "--set",
                                                 "scheduler.step_tokens_max=7",
                                                 "--set",
                                                 "worker.kv_type=f32"});
  EXPECT_EQ(options.service.tp, 3);
  EXPECT_EQ(options.service.pp, 2);
  EXPECT_EQ(options.service.ladder_layers, "last:10");
  EXPECT_THAT(options.prompt_ids, ElementsAre(1, 2, 3));
  EXPECT_EQ(options.sampling.max_tokens, 0);
  EXPECT_EQ(options.sampling.seed, 7);
  EXPECT_EQ(options.prompt_logprobs, 0);
  EXPECT_EQ(options.speculation, "prompt_lookup");
  EXPECT_TRUE(options.ignore_eos && options.json);
  ASSERT_EQ(options.service.settings.size(), 2u);
  EXPECT_EQ(options.service.settings[0].first, "scheduler.step_tokens_max");
  EXPECT_EQ(options.service.settings[0].second, "7");
}

TEST(CommandLine, PromptsAreTakenAsTheyAre) {
  for (const char* prompt :
       {"", "[a,b]", "-x", "--json", "a,b", "%%", "line\nline", "\"q\"", "🦜"}) {
    const auto options = ParseAs<GenerateOptions>({"generate", "--model", "m", "--prompt", prompt});
    EXPECT_EQ(options.prompt, prompt);
  }
}

TEST(CommandLine, BadUsageNamesTheOption) {
  const std::vector<std::string> base = {"generate", "--model", "m", "--prompt", "p"};
  const struct {
    std::vector<std::string> more;
    const char* expected;
  } kCases[] = {
      {{"--tp", "0"}, "--tp"},
      {{"--tp", "-1"}, "--tp"},
      {{"--tp", "two"}, "--tp"},
      {{"--sp", "0"}, "--sp"},
      {{"--max-tokens", "-1"}, "--max-tokens"},
      {{"--temperature", "nan"}, "--temperature"},
      {{"--temperature", "inf"}, "--temperature"},
      {{"--temperature", "-0.5"}, "--temperature"},
      {{"--top-p", "1.5"}, "--top-p"},
      {{"--seed", "-1"}, "--seed"},
      {{"--seed", "9223372036854775808"}, "--seed"},
      {{"--logprobs", "21"}, "--logprobs"},
      {{"--backend", "tpu"}, "--backend"},
      {{"--backend", "cpu,tpu"}, "--backend: tpu not in"},
      {{"--schedule", "serial"}, "--schedule"},
      {{"--ladder-layers", "1"}, "--schedule ladder"},
      {{"--desync-pattern", "1"}, "--schedule desync"},
      {{"--set", "nonsense"}, "KEY=VALUE"},
      {{"--prompt-ids", "1"}, "exactly one"},
      {{"--no-such-flag"}, "--no-such-flag"},
  };
  for (const auto& test : kCases) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), test.more.begin(), test.more.end());
    EXPECT_THAT(ErrorOf(arguments), HasSubstr(test.expected)) << test.more[0];
  }
  EXPECT_THAT(ErrorOf({"generate", "--model", "m"}), HasSubstr("exactly one"));
  EXPECT_THAT(ErrorOf({"generate", "--prompt", "p"}), HasSubstr("model"));
  EXPECT_THAT(ErrorOf({"generate", "--model", "m", "--prompt-ids", "1,-2"}), HasSubstr("-2"));
  EXPECT_THAT(ErrorOf({}), HasSubstr("subcommand"));
  EXPECT_THAT(ErrorOf({"fly"}), HasSubstr("fly"));
  EXPECT_THAT(ErrorOf({"perplexity", "--connect", "e", "--file", "f"}), HasSubstr("tokenizer"));
}

TEST(CommandLine, RunTakesModelAndPrompt) {
  const auto local = ParseAs<RunOptions>({"run", "m.gguf", "why?", "--tp", "2"});
  EXPECT_EQ(local.service.model, "m.gguf");
  EXPECT_EQ(local.prompt, "why?");
  const auto remote = ParseAs<RunOptions>({"run", "--connect", "tcp://h:1", "why?"});
  EXPECT_EQ(remote.service.connect, "tcp://h:1");
  EXPECT_EQ(remote.prompt, "why?");
  EXPECT_THAT(ErrorOf({"run", "m.gguf"}), HasSubstr("usage"));
}

// Over the file's, under --set's, wherever it stands.
TEST(CommandLine, ServeTakesABackend) {
  const auto options = ParseAs<ServeOptions>(
      {"serve", "service.yaml", "--set", "layout.pp=2", "--backend", "cpu,cuda"});
  EXPECT_EQ(options.settings,
            (ConfigOverrides{{"worker.backend", "cpu,cuda"}, {"layout.pp", "2"}}));
  EXPECT_TRUE(ParseAs<ServeOptions>({"serve", "service.yaml"}).settings.empty());
  EXPECT_THAT(ErrorOf({"serve", "service.yaml", "--backend", "cpu,tpu"}), HasSubstr("tpu not in"));
}

TEST(CommandLine, PlanCalibratesABackend) {
  const auto options = ParseAs<PlanOptions>({"plan", "--model", "m", "--calibrate"});
  EXPECT_EQ(options.backend, "auto");
  EXPECT_EQ(ParseAs<PlanOptions>({"plan", "--model", "m", "--calibrate", "--backend", "reference"})
                .backend,
            "reference");
  const std::vector<std::string> hosts = {"plan",   "--model",   "m",  "--hosts",
                                          "h.yaml", "--backend", "cpu"};
  EXPECT_THAT(ErrorOf(hosts), HasSubstr("--backend goes with --calibrate"));
}

TEST(CommandLine, HelpIsNoError) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"generate", "--help"}, {"--version"}}) {
    const auto parsed = ParseCommandLine(arguments);
    ASSERT_TRUE(parsed.ok());
    EXPECT_FALSE(std::get<HelpText>(*parsed).text.empty());
  }
  const auto help = ParseCommandLine({"generate", "--help"});
  EXPECT_THAT(std::get<HelpText>(*help).text, HasSubstr("Not given: 1 rank"));
}

TEST(Errors, AServiceErrorIsOneLineWithItsPlace) {
  ServiceError error;
  error.error = {ErrorCode::kInternal, "out of memory", "prompt", 2, "n3"};
  error.retry_after_ms = 100;
  const Error described = Describe(error);
  EXPECT_EQ(described.message,
            "out of memory (internal, field prompt, rank 2 on n3); try again in 100 ms");
  EXPECT_EQ(ExitStatusOf(described), kExitFailure);
}

}  // namespace
}  // namespace echelon
