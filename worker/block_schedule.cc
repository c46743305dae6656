#include "worker/block_schedule.h"

#include <charconv>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {

ReduceKind DesyncReduce(const ModelConfig& model, size_t sub_block) {
  CHECK(sub_block < model.desync_pattern.size());
  const bool last = sub_block + 1 == 2 * model.layers.size();
  return last || model.desync_pattern[sub_block] == '1' ? ReduceKind::kResidual : ReduceKind::kNone;
}

Error BadFlag(const char* flag, std::string_view value, std::string_view allowed) {
  return InvalidArgument(StrCat(flag, " \"", value, "\": ", allowed), flag);
}

// "1,3,5" or "last:10" -> one flag per layer.
Status MarkLadderLayers(std::string_view text, ModelConfig& model) {
  const int n = model.n_layers();
  const std::string allowed =
      StrCat("write layer indices 0 to ", n - 1, " (\"1,3,5\") or \"last:N\" with N from 1 to ", n);
  const auto number = [](std::string_view digits, int& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  for (LayerConfig& layer : model.layers) layer.ladder = text.empty();
  if (text.empty()) return {};
  constexpr std::string_view kLast = "last:";
  int value = 0;
  if (text.substr(0, kLast.size()) == kLast) {
    if (!number(text.substr(kLast.size()), value) || value < 1 || value > n) {
      return BadFlag("ladder_layers", text, allowed);
    }
    for (int l = n - value; l < n; ++l) model.layers[l].ladder = true;
    return {};
  }
  for (const std::string& part : Split(text, ',')) {
    if (!number(part, value) || value < 0 || value >= n) {
      return BadFlag("ladder_layers", text, allowed);
    }
    model.layers[value].ladder = true;
  }
  return {};
}

Status RepeatPattern(std::string_view pattern, ModelConfig& model) {
  const size_t sub_blocks = 2 * model.layers.size();
  if (pattern.empty() || sub_blocks % pattern.size() != 0 ||
      pattern.find_first_not_of("01") != std::string_view::npos) {
    return BadFlag("desync_pattern", pattern,
                   StrCat("write '1' (keep) or '0' (drop) for each of the ", sub_blocks,
                          " all-reduces in order, or a shorter pattern whose length divides ",
                          sub_blocks, " and which then repeats"));
  }
  model.desync_pattern.clear();
  while (model.desync_pattern.size() < sub_blocks) model.desync_pattern += pattern;
  return {};
}

}  // namespace

BlockSchedule MakeSchedule(const ModelConfig& model) {
  BlockSchedule schedule;
  for (int l = 0; l < model.n_layers(); ++l) {
    switch (model.schedule) {
      case ScheduleKind::kStandard:
      case ScheduleKind::kLadder: {
        const bool ladder = model.schedule == ScheduleKind::kLadder && model.layers[l].ladder;
        schedule.steps.push_back({l, BlockKind::kAttention, ReduceKind::kOutput, ladder ? 1 : 0});
        schedule.steps.push_back({l, BlockKind::kMlp, ReduceKind::kOutput, ladder ? 1 : 0});
        break;
      }
      case ScheduleKind::kParallel:
        schedule.steps.push_back({l, BlockKind::kBoth, ReduceKind::kOutput, 0});
        break;
      case ScheduleKind::kDesync:
        schedule.steps.push_back({l, BlockKind::kAttention, DesyncReduce(model, 2 * l), 0});
        schedule.steps.push_back({l, BlockKind::kMlp, DesyncReduce(model, 2 * l + 1), 0});
        break;
    }
  }
  return schedule;
}

Result<ModelConfig> OverrideSchedule(ModelConfig model, const ScheduleOverride& change) {
  const auto& [schedule, ladder_layers, desync_pattern] = change;
  if (schedule != "ladder" && !ladder_layers.empty()) {
    return BadFlag("ladder_layers", ladder_layers, "only with schedule \"ladder\"");
  }
  if (schedule != "desync" && !desync_pattern.empty()) {
    return BadFlag("desync_pattern", desync_pattern, "only with schedule \"desync\"");
  }
  if (schedule == "checkpoint") return model;
  if (schedule == "standard") {
    model.schedule = ScheduleKind::kStandard;
    return model;
  }
  if (schedule == "ladder") {
    model.schedule = ScheduleKind::kLadder;
    RETURN_IF_ERROR(MarkLadderLayers(ladder_layers, model));
    return model;
  }
  if (schedule != "parallel" && schedule != "desync") {
    return BadFlag("schedule", schedule,
                   "allowed are checkpoint, standard, ladder, parallel and desync");
  }
  if (model.post_norms) {
    return Unsupported(StrCat("schedule \"", schedule, "\": ", model.family, " norms each block's ",
                              "reduced output, and this schedule has no such output; use standard ",
                              "or ladder"));
  }
  model.schedule = schedule == "parallel" ? ScheduleKind::kParallel : ScheduleKind::kDesync;
  if (schedule == "desync") RETURN_IF_ERROR(RepeatPattern(desync_pattern, model));
  return model;
}

}  // namespace echelon
