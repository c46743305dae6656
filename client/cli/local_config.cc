#include "client/cli/local_config.h"

#include <algorithm>
#include <filesystem>

#include "client/cli/errors.h"
#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kRanksMax = 1 << 20;  // far above any group; keeps tp * pp * sp in an int

}  // namespace

Result<std::string> CheckLayout(const ServiceConfig& config) {
  const LayoutSettings& settings = config.layout;
  if (settings.tp > kRanksMax / settings.pp ||
      settings.tp * settings.pp > kRanksMax / settings.sp) {
    return UsageError(StrCat("tp ", settings.tp, " x pp ", settings.pp, " x sp ", settings.sp,
                             " is more than ", kRanksMax, " ranks"));
  }
  const auto setup = SetUpRun(config);
  if (setup.ok()) return setup->effective.warning;
  // A layout or schedule that this model cannot have is a wrong command line; a bad file is not.
  const Error& error = setup.error();
  const bool refused =
      error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kUnsupported;
  return refused && !error.field.empty() ? UsageError(error.message) : error;
}

Result<ServiceConfig> LocalConfig(const ServiceOptions& options) {
  std::error_code error;
  const auto path = std::filesystem::canonical(options.model, error);
  if (error) {
    return NotFound(StrCat("model ", options.model, ": ", error.message(),
                           "; --model takes a .gguf or .safetensors file, or a folder"));
  }
  ConfigOverrides values = {{"model.path", path.string()},
                            {"layout.tp", StrCat(options.tp.value_or(1))},
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
