#include "common/run_setup.h"

#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "common/nearest_layouts.h"
#include "common/strings.h"

namespace echelon {

namespace {

std::optional<int> ParseCount(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// "8,8,7" of a key; none of "".
Result<std::vector<int>> CountsOf(const std::string& text, const char* key) {
  std::vector<int> counts;
  if (text.empty()) return counts;
  for (const std::string& part : Split(text, ',')) {
    const auto count = ParseCount(part);
    if (!count) {
      return InvalidArgument(StrCat(key, " \"", text, "\": \"", part, "\" is not a number"), key);
    }
    counts.push_back(*count);
  }
  return counts;
}

// Marks the layers that `text` names ("1,3,5", "last:10", "" = all).
Status MarkLadderLayers(const std::string& text, ModelConfig& model) {
  const int n = model.n_layers();
  const auto bad = [&](std::string_view what) {
    return InvalidArgument(StrCat("model.ladder_layers \"", text, "\": ", what, " (the model has ",
                                  n, " layers, 0 to ", n - 1, ")"),
                           "model.ladder_layers");
  };
  for (LayerConfig& layer : model.layers) layer.ladder = text.empty();
  if (text.empty()) return {};
  constexpr std::string_view kLast = "last:";
  if (text.rfind(kLast, 0) == 0) {
    const auto count = ParseCount(std::string_view(text).substr(kLast.size()));
    if (!count || *count > n) return bad("not a number of layers");
    for (int i = n - *count; i < n; ++i) model.layers[i].ladder = true;
    return {};
  }
  for (const std::string& part : Split(text, ',')) {
    const auto index = ParseCount(part);
    if (!index || *index >= n) return bad(StrCat("no layer ", part));
    model.layers[*index].ladder = true;
  }
  return {};
}

// Two characters a layer, repeated until every layer has its own.
Result<std::string> DesyncPattern(const std::string& text, int n_layers) {
  if (text.empty() || text.size() % 2 != 0 || text.find_first_not_of("01") != std::string::npos) {
    return InvalidArgument(StrCat("model.desync_pattern \"", text,
                                  "\": must be two characters 0 or "
                                  "1 a layer (attention, MLP; 1 keeps the all-reduce)"),
                           "model.desync_pattern");
  }
  const size_t size = 2 * static_cast<size_t>(n_layers);
  std::string pattern;
  while (pattern.size() < size) pattern += text;
  if (pattern.size() != size) {
    return InvalidArgument(StrCat("model.desync_pattern has ", text.size() / 2,
                                  " layers, which does not divide the model's ", n_layers),
                           "model.desync_pattern");
  }
  return pattern;
}

// A key that the schedule does not read would be silently ignored.
Status CheckScheduleKeys(const ModelSettings& settings) {
  if (settings.schedule != "ladder" && !settings.ladder_layers.empty()) {
    return InvalidArgument(StrCat("model.ladder_layers \"", settings.ladder_layers,
                                  "\": only with model.schedule ladder, it is ", settings.schedule),
                           "model.ladder_layers");
  }
  if (settings.schedule != "desync" && !settings.desync_pattern.empty()) {
    return InvalidArgument(StrCat("model.desync_pattern \"", settings.desync_pattern,
                                  "\": only with model.schedule desync, it is ", settings.schedule),
                           "model.desync_pattern");
  }
  return {};
}

bool SameSchedule(const ModelConfig& a, const ModelConfig& b) {
  if (a.schedule != b.schedule || a.desync_pattern != b.desync_pattern) return false;
  if (a.schedule != ScheduleKind::kLadder) return true;
  for (int l = 0; l < a.n_layers(); ++l) {
    if (a.layers[l].ladder != b.layers[l].ladder) return false;
  }
  return true;
}

}  // namespace

std::string BackendOfStage(const std::string& backends, int stage) {
  const std::vector<std::string> of_stages = Split(backends, ',');
  return of_stages.size() == 1 ? of_stages[0] : of_stages[stage];
}

Result<ParallelLayout> LayoutFrom(const LayoutSettings& settings) {
  ParallelLayout layout;
  layout.tp = static_cast<int>(settings.tp);
  layout.pp = static_cast<int>(settings.pp);
  layout.sp = static_cast<int>(settings.sp);
  ASSIGN_OR_RETURN(layout.layers_per_stage,
                   CountsOf(settings.layers_per_stage, "layout.layers_per_stage"));
  ASSIGN_OR_RETURN(layout.shard_shares, CountsOf(settings.shard_shares, "layout.shard_shares"));
  return layout;
}

Result<EffectiveModel> ModelFrom(const ModelConfig& checkpoint, const ModelSettings& settings) {
  EffectiveModel effective{checkpoint, ""};
  ModelConfig& model = effective.model;
  RETURN_IF_ERROR(CheckScheduleKeys(settings));
  if (settings.schedule == "checkpoint") return effective;
  if (settings.schedule == "standard") {
    model.schedule = ScheduleKind::kStandard;
  } else if (settings.schedule == "ladder") {
    model.schedule = ScheduleKind::kLadder;
    RETURN_IF_ERROR(MarkLadderLayers(settings.ladder_layers, model));
  } else if (settings.schedule == "parallel") {
    model.schedule = ScheduleKind::kParallel;
  } else if (settings.schedule == "desync") {
    model.schedule = ScheduleKind::kDesync;
    ASSIGN_OR_RETURN(model.desync_pattern,
                     DesyncPattern(settings.desync_pattern, model.n_layers()));
  } else {
    return InvalidArgument(StrCat("model.schedule \"", settings.schedule, "\" is not known"),
                           "model.schedule");
  }
  RETURN_IF_ERROR(model.Validate());
  const bool reduces_outputs =
      model.schedule == ScheduleKind::kStandard || model.schedule == ScheduleKind::kLadder;
  if (model.post_norms && !reduces_outputs) {
    Error error = Unsupported(StrCat("model.schedule \"", settings.schedule, "\": ", model.family,
                                     " norms each block's reduced output, which this schedule ",
                                     "does not have; use standard or ladder"));
    error.field = "model.schedule";
    return error;
  }
  if (!SameSchedule(model, checkpoint)) {
    effective.warning = StrCat(
        "WARNING: the checkpoint's block schedule is ", ScheduleName(checkpoint.schedule),
        "; model.schedule = ", settings.schedule, " computes ANOTHER MODEL with its weights. The ",
        "answers mean nothing unless it was trained so: for experiments only.");
  }
  return effective;
}

Result<RunSetup> SetUpRun(const ServiceConfig& config) {
  RunSetup setup;
  ASSIGN_OR_RETURN(setup.layout, LayoutFrom(config.layout));
  CheckpointOptions options;
  options.load_format = config.model.load_format;
  options.dummy_seed = static_cast<uint64_t>(config.model.dummy_seed);
  ASSIGN_OR_RETURN(setup.checkpoint, OpenCheckpoint(config.model.path, options));
  ASSIGN_OR_RETURN(setup.effective, ModelFrom(setup.checkpoint->config(), config.model));
  const ModelConfig& model = setup.effective.model;
  RETURN_IF_ERROR(setup.layout.Validate(model));
  const LayoutLimits limits =
      LimitsOf(model, config.model.context_max_tokens, config.worker.page_tokens);
  RETURN_IF_ERROR(CheckLayoutLimits(setup.layout, model, limits));
  return setup;
}

Result<RunTokenizer> LoadRunTokenizer(const ModelSettings& settings, const ModelConfig& model) {
  auto loaded = LoadTokenizer(settings.path);
  if (loaded.ok()) return RunTokenizer{std::move(loaded).value(), ""};
  const bool bare = settings.load_format == "dummy" && loaded.error().code == ErrorCode::kNotFound;
  if (!bare) return loaded.error();
  return RunTokenizer{
      MakeByteTokenizer(model.vocab_size),
      StrCat("dummy weights without a tokenizer: one token a byte, text shows token ids (",
             loaded.error().message, ")")};
}

}  // namespace echelon
