#include "client/cli/local_config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "client/cli/errors.h"
#include "common/model/checkpoint.h"
#include "common/parallel_layout.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kRanksMax = 1 << 20;  // far above any group; keeps tp * pp * sp in an int

Result<std::vector<int>> ParseStages(const std::string& text) {
  std::vector<int> layers;
  if (text.empty()) return layers;
  for (const std::string& part : Split(text, ',')) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size()) {
      return UsageError(StrCat("layout.layers_per_stage: \"", part, "\" is no number of layers"));
    }
    layers.push_back(value);
  }
  return layers;
}

const char* NameOf(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kStandard:
      return "standard";
    case ScheduleKind::kLadder:
      return "ladder";
    case ScheduleKind::kParallel:
      return "parallel";
    case ScheduleKind::kDesync:
      return "desync";
  }
  return "?";
}

std::string ScheduleWarning(const ModelSettings& asked, const ModelConfig& model) {
  if (asked.schedule == "checkpoint") return "";
  const std::string own = NameOf(model.schedule);
  if (asked.schedule == own && asked.ladder_layers.empty() && asked.desync_pattern.empty()) {
    return "";
  }
  return StrCat("WARNING: the checkpoint's block schedule is ", own, "; --schedule ",
                asked.schedule, " computes ANOTHER MODEL with its weights. The text may be ",
                "useless: for experiments only.");
}

}  // namespace

int64_t ChooseTp(const std::string& backend) {
  if (backend != "cuda") return 1;
  int64_t devices = 0;
  std::error_code error;
  while (std::filesystem::exists(StrCat("/dev/nvidia", devices), error)) ++devices;
  return std::max<int64_t>(devices, 1);
}

Result<std::string> CheckLayout(const ServiceConfig& config) {
  const LayoutSettings& settings = config.layout;
  if (settings.sp > 1) {
    return UsageError(
        StrCat("sp is ", settings.sp, ": sequence parallelism does not exist yet; use sp 1"));
  }
  if (settings.tp > kRanksMax / settings.pp) {
    return UsageError(
        StrCat("tp ", settings.tp, " x pp ", settings.pp, " is more than ", kRanksMax, " ranks"));
  }
  ParallelLayout layout;
  layout.tp = static_cast<int>(settings.tp);
  layout.pp = static_cast<int>(settings.pp);
  layout.sp = static_cast<int>(settings.sp);
  ASSIGN_OR_RETURN(layout.layers_per_stage, ParseStages(settings.layers_per_stage));
  CheckpointOptions open;
  open.load_format = config.model.load_format;
  open.dummy_seed = static_cast<uint64_t>(config.model.dummy_seed);
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(config.model.path, open));
  const Status valid = layout.Validate(checkpoint->config());
  if (!valid.ok()) return UsageError(valid.error().message);
  return ScheduleWarning(config.model, checkpoint->config());
}

Result<ServiceConfig> LocalConfig(const ServiceOptions& options) {
  std::error_code error;
  const auto path = std::filesystem::canonical(options.model, error);
  if (error) {
    return NotFound(StrCat("model ", options.model, ": ", error.message(),
                           "; --model takes a .gguf or .safetensors file, or a folder"));
  }
  const int64_t tp = options.tp ? *options.tp : ChooseTp(options.backend);
  ConfigOverrides values = {{"model.path", path.string()},
                            {"layout.tp", StrCat(tp)},
                            {"layout.pp", StrCat(options.pp)},
                            {"layout.sp", StrCat(options.sp)},
                            {"worker.threads", StrCat(options.threads)},
                            {"worker.backend", options.backend},
                            {"frontend.endpoint", "tcp://127.0.0.1:0"},
                            {"metrics.address", "127.0.0.1:0"}};
  if (!options.schedule.empty()) values.emplace_back("model.schedule", options.schedule);
  if (!options.ladder_layers.empty()) {
    values.emplace_back("model.ladder_layers", options.ladder_layers);
  }
  if (!options.desync_pattern.empty()) {
    values.emplace_back("model.desync_pattern", options.desync_pattern);
  }
  values.insert(values.end(), options.settings.begin(), options.settings.end());
  Result<ServiceConfig> config = ParseConfig("", "command line", values);
  if (!config.ok()) return UsageError(config.error().message);
  return config;
}

}  // namespace echelon
