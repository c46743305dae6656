#include "client/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "client/cli/errors.h"
#include "common/control.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kCountMax = std::numeric_limits<int32_t>::max();
constexpr int64_t kSeedMax = std::numeric_limits<int64_t>::max();

const CLI::Range kCounts{int64_t{0}, kCountMax};
const CLI::Range kPositive{int64_t{1}, kCountMax};
const CLI::Range kLogprobs{int64_t{0}, int64_t{20}};

CLI::Validator Finite(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) -> std::string {
        double value = 0.0;
        if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value) || value < low ||
            value > high) {
          return StrCat(text, " is no number from ", low, " to ", high);
        }
        return "";
      },
      "NUMBER");
}

// CLI11 takes an integer that does not fit for the largest one; a seed must be the one that was
// given.
CLI::Validator SeedText() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
        const std::string most = std::to_string(kSeedMax);
        if (digits && (text.size() < most.size() || (text.size() == most.size() && text <= most))) {
          return "";
        }
        return StrCat(text, " is no integer from 0 to ", most);
      },
      "INT");
}

// --set KEY=VALUE: any setting of the service.
void AddSettings(CLI::App* app, ConfigOverrides* settings) {
  app->add_option_function<std::vector<std::string>>(
         "--set",
         [settings](const std::vector<std::string>& words) {
           for (const std::string& word : words) {
             const size_t equals = word.find('=');
             if (equals == std::string::npos) {
               throw CLI::ValidationError("--set", word + " is not KEY=VALUE");
             }
             settings->emplace_back(word.substr(0, equals), word.substr(equals + 1));
           }
         },
         "any setting, for example scheduler.step_tokens_max=64; over the file's; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

// --backend of what starts a service.
CLI::Option* AddBackend(CLI::App* app, std::string* backend) {
  return app
      ->add_option("--backend", *backend,
                   "what computes, or what does in each pipeline stage (cpu,cuda)")
      ->check([known = CLI::IsMember({"auto", "cpu", "reference", "cuda"})](std::string text) {
        std::string problem;
        for (std::string stage : Split(text, ',')) problem += known(stage);
        return problem;
      });
}

// The options of every command that needs a service.
void AddServiceOptions(CLI::App* app, ServiceOptions* options, bool model_is_option) {
  app->add_option("--connect", options->connect,
                  "endpoint of a running service, tcp://host:port; without it a local group is "
                  "started for this command and ended with it")
      ->type_name("ENDPOINT");
  if (model_is_option) {
    app->add_option("--model", options->model,
                    "a .gguf or .safetensors file, or a folder with config.json")
        ->type_name("PATH");
  }
  app->add_option("--tp", options->tp,
                  "tensor-parallel ranks. Not given: 1 rank that uses all cores (ranks on one host "
                  "share the same cores and memory bandwidth, and only add communication), or the "
                  "GPU")
      ->check(kPositive);
  app->add_option("--pp", options->pp, "pipeline stages")->check(kPositive)->capture_default_str();
  app->add_option("--sp", options->sp,
                  "ranks that share a long context: each keeps every sp-th KV page")
      ->check(kPositive)
      ->capture_default_str();
  app->add_option("--threads", options->threads,
                  "per rank; 0: the host's cores shared out among its ranks")
      ->check(kCounts)
      ->capture_default_str();
  AddBackend(app, &options->backend)->capture_default_str();
  app->add_option(
         "--schedule", options->schedule,
         "block schedule, against the checkpoint's own: CHANGES THE MODEL, for experiments")
      ->check(CLI::IsMember({"standard", "ladder", "parallel", "desync"}));
  app->add_option("--ladder-layers", options->ladder_layers,
                  "with --schedule ladder: layer indices 1,3,5 or last:N")
      ->type_name("LAYERS");
  app->add_option("--desync-pattern", options->desync_pattern,
                  "with --schedule desync: which all-reduces are kept (docs/architecture.md)")
      ->type_name("P");
  AddSettings(app, &options->settings);
  app->add_flag("--verbose", options->verbose, "show the coordinator's and the workers' own lines");
}

void AddSamplingOptions(CLI::App* app, SamplingOptions* options, int64_t max_tokens) {
  options->max_tokens = max_tokens;
  app->add_option("--max-tokens", options->max_tokens,
                  StrCat("most tokens to generate (default ", max_tokens, ")"))
      ->check(kCounts);
  app->add_option("--temperature", options->temperature, "0 = greedy")
      ->check(Finite(0.0, 100.0))
      ->capture_default_str();
  app->add_option("--top-p", options->top_p, "nucleus sampling, above 0 to 1")
      ->check(Finite(0.0, 1.0));
  app->add_option("--top-k", options->top_k, "of the K likeliest tokens only; 0 = off")
      ->check(kCounts);
  app->add_option("--min-p", options->min_p, "of tokens at least this likely beside the likeliest")
      ->check(Finite(0.0, 1.0));
  app->add_option("--seed", options->seed, "of the random numbers; drawn and printed if not given")
      ->check(SeedText())
      ->type_name("S");
  app->add_option("--stop", options->stop, "text that ends the answer; repeatable")
      ->allow_extra_args(false);
}

std::string CheckService(const ServiceOptions& options) {
  if (options.connect.empty() && options.model.empty()) {
    return "give the model (a path), or --connect ENDPOINT of a running service";
  }
  if (!options.ladder_layers.empty() && options.schedule != "ladder") {
    return "--ladder-layers goes with --schedule ladder";
  }
  if (!options.desync_pattern.empty() && options.schedule != "desync") {
    return "--desync-pattern goes with --schedule desync";
  }
  return "";
}

// A subcommand under construction: its options, and what is wrong with them once parsed.
struct Entry {
  CLI::App* app;
  std::function<Result<Command>()> finish;
};

template <typename Options>
Result<Command> Finish(const Options& options, std::string problem) {
  if (!problem.empty()) return UsageError(std::move(problem));
  return Command(options);
}

Entry AddGenerate(CLI::App& root) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* app = root.add_subcommand("generate", "one answer, for programs and people");
  AddServiceOptions(app, &options->service, true);
  app->add_option("--prompt", options->prompt,
                  "a text: no chat template, the tokenizer's default special tokens added")
      ->type_name("TEXT");
  app->add_option("--prompt-ids", options->prompt_ids, "token ids as they are")
      ->type_name("1,2,3")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(kCounts);
  app->add_option("--messages", options->messages_file,
                  "a file with a JSON array of {role, content}, rendered with the chat template")
      ->type_name("FILE.json");
  AddSamplingOptions(app, &options->sampling, 128);
  app->add_option("--logprobs", options->logprobs, "the K best of every step")->check(kLogprobs);
  app->add_option("--prompt-logprobs", options->prompt_logprobs, "the same for the prompt")
      ->check(kLogprobs);
  app->add_option("--deadline-ms", options->deadline_ms, "the answer's, from its acceptance")
      ->check(kPositive);
  app->add_option("--speculation", options->speculation,
                  "guess from what stands in the text; never changes an answer")
      ->check(CLI::IsMember({"off", "prompt_lookup"}));
  app->add_flag("--ignore-eos", options->ignore_eos, "go on after an end-of-sequence token");
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options] {
            const int given = (options->prompt ? 1 : 0) + (options->prompt_ids.empty() ? 0 : 1) +
                              (options->messages_file.empty() ? 0 : 1);
            std::string problem = CheckService(options->service);
            if (problem.empty() && given != 1) {
              problem = "give exactly one of --prompt, --prompt-ids and --messages";
            }
            return Finish(*options, std::move(problem));
          }};
}

Entry AddRun(CLI::App& root) {
  auto options = std::make_shared<RunOptions>();
  auto words = std::make_shared<std::vector<std::string>>();
  CLI::App* app = root.add_subcommand("run", "ask one question: echelon run MODEL \"question\"");
  app->add_option("WORDS", *words, "the model's path (not with --connect), the question")
      ->required()
      ->expected(1, 2);
  AddServiceOptions(app, &options->service, false);
  AddSamplingOptions(app, &options->sampling, 512);
  app->add_option("--system", options->system, "the system message");
  return {app, [options, words]() -> Result<Command> {
            const size_t expected = options->service.connect.empty() ? 2 : 1;
            if (words->size() != expected) {
              return UsageError(expected == 2
                                    ? "usage: echelon run MODEL \"question\""
                                    : "usage: echelon run --connect ENDPOINT \"question\"");
            }
            if (expected == 2) options->service.model = words->front();
            options->prompt = words->back();
            return Finish(*options, CheckService(options->service));
          }};
}

Entry AddChat(CLI::App& root) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* app = root.add_subcommand("chat", "a conversation with a model");
  app->add_option("MODEL", options->service.model, "the model's path (not with --connect)");
  AddServiceOptions(app, &options->service, false);
  AddSamplingOptions(app, &options->sampling, 512);
  app->add_option("--system", options->system, "the system message");
  return {app, [options] { return Finish(*options, CheckService(options->service)); }};
}

Entry AddPerplexity(CLI::App& root) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* app = root.add_subcommand(
      "perplexity",
      "how well the model predicts a text: its ids cut into windows, every token but a window's "
      "first predicted");
  AddServiceOptions(app, &options->service, true);
  app->add_option("--file", options->file, "the text, UTF-8")->required()->type_name("F");
  app->add_option("--chars", options->chars, "its first N Unicode characters only; 0: all")
      ->check(kCounts);
  app->add_option("--window", options->window, "tokens")
      ->check(CLI::Range(int64_t{2}, kCountMax))
      ->capture_default_str();
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options] {
            std::string problem = CheckService(options->service);
            if (problem.empty() && options->service.model.empty()) {
              problem = "--model is needed for its tokenizer";
            }
            return Finish(*options, std::move(problem));
          }};
}

// What a measurement asks of the service.
template <typename Options>
void AddLoadOptions(CLI::App* app, Options* options) {
  app->add_option("--prompt", options->prompt, "tokens of each prompt")
      ->check(kPositive)
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--gen", options->gen, "tokens each request generates")
      ->check(CLI::Range(int64_t{2}, kCountMax))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--streams", options->streams, "requests at once, after a single one")
      ->check(kPositive)
      ->type_name("N")
      ->capture_default_str();
}

Entry AddBench(CLI::App& root) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* app = root.add_subcommand(
      "bench",
      "how fast the service is: prefill and decode of one stream, then several streams at once, "
      "all over the client API; medians with their spread");
  AddServiceOptions(app, &options->service, true);
  AddLoadOptions(app, options.get());
  app->add_option("--repeat", options->repeat, "runs that count, after one that warms up")
      ->check(kPositive)
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options] {
            std::string problem = CheckService(options->service);
            if (problem.empty() && options->service.model.empty()) {
              problem = "--model is needed for its vocabulary and its attention windows";
            }
            return Finish(*options, std::move(problem));
          }};
}

Entry AddTrace(CLI::App& root) {
  auto options = std::make_shared<TraceOptions>();
  CLI::App* app = root.add_subcommand(
      "trace",
      "what every rank of a local group does in some steps, as a file for Perfetto or Chrome's "
      "tracing page: operations, messages in flight, waits");
  AddServiceOptions(app, &options->service, true);
  AddLoadOptions(app, options.get());
  app->add_option("--out", options->out, "the file that is written")
      ->type_name("FILE.json")
      ->capture_default_str();
  return {app, [options] {
            std::string problem = CheckService(options->service);
            if (problem.empty() && !options->service.connect.empty()) {
              problem = "a trace needs a group of its own: give --model, not --connect";
            }
            return Finish(*options, std::move(problem));
          }};
}

Entry AddTokenize(CLI::App& root) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* app = root.add_subcommand("tokenize", "the token ids of a text");
  app->add_option("--model", options->model, "the model")->required()->type_name("PATH");
  app->add_option("--text", options->text, "the text")->required()->type_name("TEXT");
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options] { return Finish(*options, ""); }};
}

Entry AddInspect(CLI::App& root) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* app = root.add_subcommand("inspect", "configuration and tensors of a checkpoint");
  app->add_option("PATH", options->path, "the checkpoint")->required();
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options] { return Finish(*options, ""); }};
}

Entry AddServe(CLI::App& root) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* app = root.add_subcommand("serve", "a service in the foreground");
  app->add_option("CONFIG", options->config, "service.yaml (see deploy/echelon.yaml)")->required();
  auto backend = std::make_shared<std::string>();
  AddBackend(app, backend.get());
  AddSettings(app, &options->settings);
  return {app, [options, backend] {
            // Over the file's, under --set's.
            const std::pair<std::string, std::string> asked = {"worker.backend", *backend};
            if (!backend->empty()) options->settings.insert(options->settings.begin(), asked);
            return Finish(*options, "");
          }};
}

Entry AddCheckConfig(CLI::App& root) {
  auto options = std::make_shared<CheckConfigOptions>();
  CLI::App* app = root.add_subcommand("check-config", "print the effective configuration");
  app->add_option("CONFIG", options->config, "service.yaml")->required();
  AddSettings(app, &options->settings);
  return {app, [options] { return Finish(*options, ""); }};
}

Entry AddStatus(CLI::App& root) {
  auto options = std::make_shared<StatusOptions>();
  options->connect = ServiceConfig().frontend.endpoint;
  CLI::App* app = root.add_subcommand("status", "what a running service is doing");
  app->add_option("--connect", options->connect, "its endpoint")
      ->type_name("ENDPOINT")
      ->capture_default_str();
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options] { return Finish(*options, ""); }};
}

Entry AddPlan(CLI::App& root) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* app = root.add_subcommand(
      "plan", "which layout suits which hosts: bytes, times, what would not fit; loads nothing");
  app->add_option("--model", options->model, "the model")->required()->type_name("PATH");
  app->add_option("--hosts", options->hosts,
                  "the machines, as YAML (docs/parallelism.md; --calibrate prints this one's)")
      ->type_name("FILE");
  app->add_option("--context", options->context,
                  StrCat("positions of every stream; default ", kPlanContextDefault))
      ->check(kPositive);
  app->add_option("--streams", options->streams, "sequences at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1 << 20}))
      ->capture_default_str();
  app->add_option("--step-tokens-max", options->step_tokens_max, "rows of a prefill step")
      ->check(CLI::Range(int64_t{1}, int64_t{1 << 20}))
      ->capture_default_str();
  app->add_option("--kv-type", options->kv_type, "format of cached keys and values")
      ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
      ->capture_default_str();
  app->add_option("--load-format", options->load_format, "dummy: a configuration without weights")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str();
  app->add_option("--schedule", options->schedule, "block schedule, against the checkpoint's own")
      ->check(CLI::IsMember({"standard", "ladder", "parallel", "desync"}));
  app->add_option("--ladder-layers", options->ladder_layers, "with --schedule ladder")
      ->type_name("LAYERS");
  app->add_option("--desync-pattern", options->desync_pattern, "with --schedule desync")
      ->type_name("P");
  app->add_option("--rows", options->rows, "runners-up shown, and layouts that do not fit")
      ->check(kCounts)
      ->capture_default_str();
  app->add_flag("--calibrate", options->calibrate,
                "measure this machine with the model, some seconds, and print a hosts file");
  const CLI::Option* backend =
      app->add_option("--backend", options->backend,
                      "what --calibrate measures; auto: the CPU (no GPU's rates are measured)")
          ->check(CLI::IsMember({"auto", "cpu", "reference"}));
  app->add_flag("--json", options->json, "one JSON object on stdout's last line");
  return {app, [options, backend] {
            const bool missing = options->hosts.empty() && !options->calibrate;
            std::string problem = missing ? "give --hosts FILE, or --calibrate to make one" : "";
            if (*backend && !options->calibrate) problem = "--backend goes with --calibrate";
            return Finish(*options, std::move(problem));
          }};
}

Entry AddSimulate(CLI::App& root) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* app = root.add_subcommand(
      "simulate", "predicted speed of 70B and 405B models on 8 to 1,024 H100 GPUs");
  app->add_option("--out", options->out, "a folder for curves (SVG) and figures (CSV, JSON)")
      ->type_name("FOLDER");
  app->add_flag("--json", options->json, "without --out: JSON on stdout, not CSV");
  return {app, [options] { return Finish(*options, ""); }};
}

}  // namespace

Result<std::variant<Command, HelpText>> ParseCommandLine(
    const std::vector<std::string>& arguments) {
  using Parsed = std::variant<Command, HelpText>;
  CLI::App root("Echelon: large language models over several machines", "echelon");
  root.set_version_flag("--version", BuildId());
  root.require_subcommand(1);
  const std::vector<Entry> entries = {AddGenerate(root),    AddRun(root),     AddChat(root),
                                      AddPerplexity(root),  AddBench(root),   AddTrace(root),
                                      AddTokenize(root),    AddInspect(root), AddServe(root),
                                      AddCheckConfig(root), AddStatus(root),  AddPlan(root),
                                      AddSimulate(root)};
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.push_back(entry.app->get_name());
  const std::string first = arguments.empty() ? "-" : arguments.front();
  if (first.substr(0, 1) != "-" && std::find(names.begin(), names.end(), first) == names.end()) {
    const std::string nearest = NearestName(first, names);
    return UsageError(StrCat("no subcommand ", first,
                             nearest.empty() ? "" : "; did you mean " + nearest + "?",
                             "; see echelon --help"));
  }
  try {
    // CLI11 takes the words from the back.
    root.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    return Parsed(HelpText{root.help()});
  } catch (const CLI::CallForAllHelp&) {
    return Parsed(HelpText{root.help("", CLI::AppFormatMode::All)});
  } catch (const CLI::CallForVersion&) {
    return Parsed(HelpText{BuildId() + "\n"});
  } catch (const CLI::ParseError& error) {
    return UsageError(StrCat(error.what(), "; see echelon --help"));
  }
  for (const Entry& entry : entries) {
    if (!entry.app->parsed()) continue;
    ASSIGN_OR_RETURN(Command command, entry.finish());
    return Parsed(std::move(command));
  }
  return UsageError("no subcommand given; see echelon --help");
}

}  // namespace echelon
