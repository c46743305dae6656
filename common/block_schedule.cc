#include "common/block_schedule.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

namespace {

ReduceKind DesyncReduce(const ModelConfig& model, size_t sub_block) {
  CHECK(sub_block < model.desync_pattern.size());
  const bool last = sub_block + 1 == 2 * model.layers.size();
  return last || model.desync_pattern[sub_block] == '1' ? ReduceKind::kResidual : ReduceKind::kNone;
}

// How many outputs are pending just before step `at` of the whole schedule.
int PendingBefore(const std::vector<SubBlockStep>& all, size_t at) {
  int pending = 0;
  for (size_t i = 0; i < at; ++i) pending = std::min(pending, all[i].in_flight_max) + 1;
  return at < all.size() ? std::min(pending, all[at].in_flight_max) : 0;
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

StageSchedule StageScheduleOf(const ModelConfig& model, int64_t begin, int64_t end) {
  const std::vector<SubBlockStep> all = MakeSchedule(model).steps;
  const auto first_of_layer = [&](int64_t layer) {
    return std::find_if(all.begin(), all.end(),
                        [&](const SubBlockStep& s) { return s.layer >= layer; });
  };
  const auto from = first_of_layer(begin), to = first_of_layer(end);
  return {{from, to},
          {from - PendingBefore(all, from - all.begin()), from},
          PendingBefore(all, to - all.begin())};
}

}  // namespace echelon
