#include "common/block_schedule.h"

#include "common/check.h"

namespace echelon {

namespace {

ReduceKind DesyncReduce(const ModelConfig& model, size_t sub_block) {
  CHECK(sub_block < model.desync_pattern.size());
  const bool last = sub_block + 1 == 2 * model.layers.size();
  return last || model.desync_pattern[sub_block] == '1' ? ReduceKind::kResidual : ReduceKind::kNone;
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

}  // namespace echelon
