#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include "common/config_table.h"
#include "common/config_yaml.h"
#include "common/strings.h"

namespace echelon {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ErrorOf(std::string_view yaml, const ConfigOverrides& overrides = {}) {
  const auto config = ParseConfig(yaml, "service.yaml", overrides);
  return config.ok() ? "no error" : config.error().message;
}

TEST(Config, EmptyTextGivesTheDefaults) {
  for (const char* text : {"", "\n", "# nothing\n", "---\n", "model:\n", "model: {}\n"}) {
    const auto config = ParseConfig(text, "service.yaml");
    ASSERT_TRUE(config.ok()) << text << config.error().message;
    EXPECT_EQ(PrintConfig(*config), PrintConfig(ServiceConfig{})) << text;
  }
}

TEST(Config, ReadsEveryKindOfValue) {
  const auto config = ParseConfig(
      "model:\n  path: /models/a b.gguf\n  schedule: ladder\n"
      "layout: {tp: 2, pp: 3}\n"
      "worker:\n  kv_memory_bytes: 2GiB\n"
      "frontend:\n  message_bytes_max: 1 MB\n  endpoint: \"tcp://0.0.0.0:7000\"\n"
      "metrics:\n  address: \"\"\n",
      "service.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->model.path, "/models/a b.gguf");
  EXPECT_EQ(config->model.name, "a b.gguf");
  EXPECT_EQ(config->model.schedule, "ladder");
  EXPECT_EQ(config->layout.tp, 2);
  EXPECT_EQ(config->layout.pp, 3);
  EXPECT_EQ(config->worker.kv_memory_bytes, int64_t{2} << 30);
  EXPECT_EQ(config->frontend.message_bytes_max, 1'000'000);
  EXPECT_EQ(config->frontend.endpoint, "tcp://0.0.0.0:7000");
  EXPECT_EQ(config->metrics.address, "");
  EXPECT_EQ(config->scheduler.queue_requests_max, SchedulerSettings{}.queue_requests_max);
}

TEST(Config, NameOfAFolderIsItsLastPart) {
  const auto config = ParseConfig("model: {path: /models/llama/}", "service.yaml");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->model.name, "llama");
}

TEST(Config, SizesTakeUnits) {
  const std::map<std::string, int64_t> sizes = {
      {"65536", 65536},  {"64KiB", 65536},       {"64 KiB", 65536},
      {"1MiB", 1 << 20}, {"1MB", 1'000'000},     {"5kB", 5000},
      {"1GiB", 1 << 30}, {"1GB", 1'000'000'000}, {"70000B", 70000}};
  for (const auto& [text, bytes] : sizes) {
    const auto config = ParseConfig("", "x", {{"frontend.message_bytes_max", text}});
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(config->frontend.message_bytes_max, bytes) << text;
  }
  for (const char* bad : {"", "x", "1.5GiB", "1 XB", "GiB", "9223372036854775807GiB", "-1", "1e6",
                          "99999999999999999999"}) {
    EXPECT_FALSE(ParseConfig("", "x", {{"frontend.message_bytes_max", bad}}).ok()) << bad;
  }
}

TEST(Config, OverridesComeLast) {
  const auto config =
      ParseConfig("layout: {tp: 2, pp: 2}", "x", {{"layout.tp", "4"}, {"layout.tp", "8"}});
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->layout.tp, 8);
  EXPECT_EQ(config->layout.pp, 2);
}

TEST(Config, ErrorsNamePlaceKeyAndRemedy) {
  EXPECT_THAT(ErrorOf("layout:\n  pt: 2\n"),
              AllOf(HasSubstr("service.yaml:2: unknown key \"layout.pt\""),
                    HasSubstr("did you mean \"layout.")));
  EXPECT_THAT(ErrorOf("schedular:\n  a: 1\n"),
              HasSubstr("service.yaml:2: unknown section \"schedular\"; did you mean "
                        "\"scheduler\"?"));
  EXPECT_THAT(ErrorOf("schedular:\n"), HasSubstr("unknown section"));
  EXPECT_THAT(ErrorOf("layout:\n\n  tp: two\n"),
              HasSubstr("service.yaml:3: layout.tp: expected an integer, got \"two\""));
  EXPECT_THAT(ErrorOf("layout:\n  tp:\n"), HasSubstr("layout.tp: expected an integer, got \"\""));
  EXPECT_THAT(ErrorOf("layout: {tp: 0}"), HasSubstr("allowed: 1 to 1024 ranks"));
  EXPECT_THAT(ErrorOf("layout: {tp: 2.0}"), HasSubstr("expected an integer"));
  EXPECT_THAT(ErrorOf("worker: {backend: gpu}"),
              HasSubstr("worker.backend: expected auto, cpu, reference or cuda"));
  EXPECT_THAT(ErrorOf("worker: {backend: \"cpu,gpu\"}"), HasSubstr("worker.backend: expected"));
  EXPECT_THAT(ErrorOf("worker: {backend: \"cpu,cuda\"}"),
              HasSubstr("worker.backend: names 2 stages, but layout.pp is 1"));
  EXPECT_THAT(ErrorOf("worker: {kv_memory_bytes: lots}"), HasSubstr("expected a size"));
  EXPECT_THAT(ErrorOf("", {{"layout.tpp", "1"}}),
              HasSubstr("command line: unknown key \"layout.tpp\"; did you mean \"layout.tp\"?"));
  EXPECT_THAT(ErrorOf("", {{"layout.tp", "-3"}}), HasSubstr("command line: layout.tp: \"-3\""));
  EXPECT_EQ(ParseConfig("layout: {tp: 0}", "x").error().field, "layout.tp");
}

TEST(Config, ChecksTheFormOfTexts) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"frontend.endpoint", "127.0.0.1:80"}, {"frontend.endpoint", "tcp://127.0.0.1:99999"},
      {"frontend.endpoint", "tcp://:80"},    {"frontend.endpoint", ""},
      {"group.endpoint", "ipc://"},          {"group.endpoint", "ipc:///run/workers.sock"},
      {"metrics.address", "9760"},           {"metrics.address", "localhost:"},
      {"metrics.address", "a:1,2"},          {"model.ladder_layers", "1,,3"},
      {"model.ladder_layers", "last:"},      {"model.ladder_layers", "last:1,2"},
      {"layout.layers_per_stage", "8,0"},    {"layout.layers_per_stage", "8 8"},
      {"layout.shard_shares", "2,0"}};
  for (const auto& [key, value] : bad) {
    EXPECT_THAT(ErrorOf("", {{key, value}}), HasSubstr("command line: " + key)) << value;
  }
  const std::vector<std::pair<std::string, std::string>> good = {
      {"frontend.endpoint", "ipc:///run/echelon.sock"},
      {"frontend.endpoint", "tcp://[::1]:80"},
      {"group.endpoint", "tcp://10.0.0.1:0"},
      {"metrics.address", ""},
      {"model.ladder_layers", "last:10"},
      {"model.ladder_layers", "0,3"}};
  for (const auto& [key, value] : good) EXPECT_EQ(ErrorOf("", {{key, value}}), "no error") << value;
}

TEST(Config, ChecksWhatBelongsTogether) {
  EXPECT_THAT(ErrorOf("group: {heartbeat_interval_ms: 2000, heartbeat_timeout_ms: 3000}"),
              HasSubstr("group.heartbeat_timeout_ms"));
  EXPECT_THAT(ErrorOf("group: {lease_ms: 600}"), HasSubstr("group.lease_ms"));
  EXPECT_THAT(ErrorOf("layout: {pp: 2, layers_per_stage: \"8,8,8\"}"), HasSubstr("3 stages"));
  EXPECT_THAT(ErrorOf("layout: {tp: 2, shard_shares: \"2,1,1\"}"), HasSubstr("3 ranks"));
  EXPECT_THAT(ErrorOf("group: {launcher: hostfile}"), HasSubstr("group.hosts"));
  EXPECT_THAT(ErrorOf("scheduler: {speculation_ngram_max_tokens: 1}"),
              HasSubstr("scheduler.speculation_ngram_min_tokens"));
}

TEST(Config, RefusesWhatAConfigurationNeverNeeds) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"model", "expected sections"},
      {"[1, 2]", "lists are not used"},
      {"model: [a]", "lists are not used"},
      {"model: {path: [a]}", "lists are not used"},
      {"model: {path: {a: b}}", "nested too deeply"},
      {"? {a: b}\n: c\n", "nested too deeply"},
      {"model: {? {a: b} : c}", "nested too deeply"},
      {"path: x", "outside any section"},
      {"model: {path: a, path: b}", "given twice"},
      {"model: {path: a}\nmodel: {name: b}\n", "given twice"},
      {"model: &m {path: a}\nlayout: *m\n", "aliases are not used"},
      {"model: {path: !!binary aGk=}", "tags are not used"},
      {"model: {path: \"a\\nb\"}", "control characters"},
      {"model: {path: \"a\\0b\"}", "control characters"},
      {"model: {}\n---\nlayout: {}\n", "more than one YAML document"},
      {"model: {path: a", "service.yaml:"},
      {"model: \"a", "service.yaml:"},
      {"\tmodel: a", "service.yaml:"},
      {"model: {path: \xff}", "not UTF-8"}};
  for (const auto& [text, why] : bad) EXPECT_THAT(ErrorOf(text), HasSubstr(why)) << text;
}

std::string Repeated(std::string_view part, size_t bytes) {
  std::string out;
  while (out.size() + part.size() <= bytes) out += part;
  return out;
}

// Nesting, indentation and aliases as large as the limit allows must cost about their own size.
TEST(Config, HostileTextIsRefusedQuickly) {
  std::string bomb = "a: &a [x, x]\n";
  for (char c = 'b'; c <= 'z'; ++c) {
    const char before = static_cast<char>(c - 1);
    bomb += StrCat(c, ": &", c, " [*", before, ", *", before, "]\n");
  }
  std::string stairs;  // each line one deeper
  for (size_t i = 0; stairs.size() + i < 200'000; ++i) stairs += std::string(i, ' ') + "a:\n";
  std::vector<std::string> texts = {bomb,
                                    stairs,
                                    std::string(kConfigBytesMax + 1, '#'),
                                    "model: {path: " + std::string(200'000, 'a') + "}",
                                    std::string(200'000, ' '),
                                    std::string(200'000, '\n')};
  for (const char* part : {"[", "{", "{a: ", "- ", "? ", "'", "\"", "!", "&a ", "*a", "a: ", ": ",
                           "|\n", ">\n ", "%", "---\n", "...\n", "[a, ", "!!map {"}) {
    texts.push_back(Repeated(part, kConfigBytesMax));
    texts.push_back("model: " + Repeated(part, 200'000));
  }
  for (const std::string& text : texts) {
    const auto start = std::chrono::steady_clock::now();
    const auto config = ParseConfig(text, "service.yaml");
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_LT(seconds.count(), 2.0) << text.substr(0, 40);
    if (!config.ok()) {
      EXPECT_LT(config.error().message.size(), 500u) << text.substr(0, 40);
      EXPECT_EQ(config.error().message.find('\n'), std::string::npos) << text.substr(0, 40);
    }
  }
}

// A configuration in which no value is its default: what printing loses would show.
ServiceConfig EverythingChanged() {
  ServiceConfig config;
  int64_t salt = 0;
  for (const ConfigRow& row : ConfigTable()) {
    if (const auto* integer = std::get_if<ConfigInt>(&row.member)) {
      int64_t& value = (*integer)(config);
      value = std::min(row.max, value + 1 + salt++);
    } else if (!row.choices.empty()) {
      std::get<ConfigText>(row.member)(config) = row.choices.back();
    } else {
      std::get<ConfigText>(row.member)(config) = StrCat("a \"b\" \\ {} # ü ", salt++);
    }
  }
  config.layout.layers_per_stage = Join(std::vector<std::string>(config.layout.pp, "3"), ",");
  config.layout.shard_shares = Join(std::vector<std::string>(config.layout.tp, "2"), ",");
  config.worker.backend = Join(std::vector<std::string>(config.layout.pp, "cpu"), ",");
  config.model.ladder_layers = "last:3";
  config.frontend.endpoint = "ipc:///tmp/a: b";
  config.group.endpoint = "tcp://[::1]:1";
  config.metrics.address = "0.0.0.0:1";
  return config;
}

TEST(Config, PrintedTextReadsBackTheSame) {
  const ServiceConfig config = EverythingChanged();
  const std::string printed = PrintConfig(config);
  const auto again = ParseConfig(printed, "printed");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(PrintConfig(*again), printed);
  ServiceConfig wrote = config, read = *again, defaults;
  for (const ConfigRow& row : ConfigTable()) {
    if (const auto* integer = std::get_if<ConfigInt>(&row.member)) {
      EXPECT_EQ((*integer)(read), (*integer)(wrote)) << row.Key();
      EXPECT_NE((*integer)(read), (*integer)(defaults)) << row.Key();
    } else {
      const auto& text = std::get<ConfigText>(row.member);
      EXPECT_EQ(text(read), text(wrote)) << row.Key();
      EXPECT_NE(text(read), text(defaults)) << row.Key();
    }
  }
}

TEST(Config, EveryDefaultIsAllowed) {
  for (const ConfigKey& key : ConfigKeys()) {
    const auto config = ParseConfig("", "x", {{key.name, key.default_value}});
    EXPECT_TRUE(config.ok()) << config.error().message;
    EXPECT_GT(key.help.size(), 10u) << key.name;
  }
}

TEST(Config, LoadsAFileAndSaysWhenItCannot) {
  const auto folder = std::filesystem::path(testing::TempDir());
  const std::string path = (folder / StrCat("echelon-config-", getpid(), ".yaml")).string();
  std::ofstream(path) << "layout: {tp: 2}\n";
  const auto config = LoadConfig(path, {{"layout.pp", "2"}});
  std::filesystem::remove(path);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->layout.tp * config->layout.pp, 4);
  EXPECT_THAT(LoadConfig(path).error().message, HasSubstr("cannot open"));
  EXPECT_THAT(LoadConfig(folder.string()).error().message, HasSubstr("is a folder"));
  EXPECT_THAT(LoadConfig("/dev/zero").error().message, HasSubstr("larger than"));
}

}  // namespace
}  // namespace echelon
