#pragma once
// What the command line said, one struct a subcommand. Plain values; filled by command_line.cc.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/config.h"

namespace echelon {

// How to reach a service: a running one (`connect`), or a local group started for this command.
struct ServiceOptions {
  std::string connect;  // endpoint of a running service; empty: start a local group
  std::string model;
  std::optional<int64_t> tp;  // not given: chosen for the machine (ChooseTp)
  int64_t pp = 1, sp = 1;
  int64_t threads = 0;  // per rank; 0: the cores shared out
  std::string backend = "auto";
  std::string schedule;  // "" = the checkpoint's
  std::string ladder_layers;
  std::string desync_pattern;
  ConfigOverrides settings;  // --set KEY=VALUE, after everything else
  bool verbose = false;      // the coordinator's and the workers' own lines on stderr
};

struct SamplingOptions {
  std::optional<int64_t> max_tokens;
  double temperature = 1.0;
  std::optional<double> top_p, min_p;
  std::optional<int64_t> top_k;
  std::optional<int64_t> seed;  // not given: drawn and printed
  std::vector<std::string> stop;
};

struct GenerateOptions {
  ServiceOptions service;
  SamplingOptions sampling;
  std::optional<std::string> prompt;
  std::vector<int32_t> prompt_ids;
  std::string messages_file;
  std::optional<int64_t> logprobs, prompt_logprobs;
  std::optional<int64_t> deadline_ms;
  std::string speculation;  // "" = the service's
  bool ignore_eos = false;
  bool json = false;
};

struct RunOptions {
  ServiceOptions service;
  SamplingOptions sampling;
  std::string prompt;
  std::string system;
};

struct ChatOptions {
  ServiceOptions service;
  SamplingOptions sampling;
  std::string system;
};

struct PerplexityOptions {
  ServiceOptions service;
  std::string file;
  int64_t chars = 0;     // 0: the whole file
  int64_t window = 512;  // tokens
  bool json = false;
};

struct TokenizeOptions {
  std::string model;
  std::string text;
  bool json = false;
};

struct InspectOptions {
  std::string path;
  bool json = false;
};

struct ServeOptions {
  std::string config;
  ConfigOverrides settings;
};

struct CheckConfigOptions {
  std::string config;
  ConfigOverrides settings;
};

struct StatusOptions {
  std::string connect;
  bool json = false;
};

using Command =
    std::variant<GenerateOptions, RunOptions, ChatOptions, PerplexityOptions, TokenizeOptions,
                 InspectOptions, ServeOptions, CheckConfigOptions, StatusOptions>;

}  // namespace echelon
