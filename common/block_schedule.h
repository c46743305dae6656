#pragma once
// BlockSchedule: the order of a model's sub-blocks and how many of their all-reduces may be in
// flight, as a table that the decoder interprets. Standard, ladder, partial ladder, parallel and
// desync are rows of numbers, not code.
//
//   for each step: while (pending.size() > step.in_flight_max) residual += wait(pending.pop())
//                  pending.push(async all-reduce of block(norm(residual)))
//
// Standard has 0 in flight; ladder 1 (Ladder Residual, Zhang et al. 2025): every sub-block reads a
// residual that is stale by one sub-block, behind which its predecessor's all-reduce hides. A
// ladder layer after a standard one so reads the standard layer's residual from before its MLP.
//
// Desync (the same authors): a dropped all-reduce leaves each rank with its own residual; a kept
// one sums output + residual / tp, which brings the ranks' residuals together again. The model's
// last is always kept, so that the ranks agree on the logits.

#include <cstdint>
#include <vector>

#include "common/model_config.h"

namespace echelon {

enum class BlockKind : uint8_t { kAttention, kMlp, kBoth };  // kBoth: on one norm, one reduce
enum class ReduceKind : uint8_t {
  kOutput,    // sum the block's partial outputs over tp, then add to the residual
  kResidual,  // desync: sum (output + residual / tp) over tp; it becomes the residual
  kNone,      // desync: add this rank's partial output to this rank's residual
};

struct SubBlockStep {
  int layer = 0;
  BlockKind kind = BlockKind::kAttention;
  ReduceKind reduce = ReduceKind::kOutput;
  int in_flight_max = 0;
};

struct BlockSchedule {
  std::vector<SubBlockStep> steps;
};

// The whole model's schedule; a pipeline stage runs the steps of its layers. `kind` is the
// checkpoint's own or an explicit override.
BlockSchedule MakeSchedule(const ModelConfig& model);

// The steps of one pipeline stage.
struct StageSchedule {
  std::vector<SubBlockStep> steps;
  std::vector<SubBlockStep> entering;  // pending when the stage begins
  int leaving = 0;                     // pending that the next stage takes over
};
// Of layers [begin, end).
StageSchedule StageScheduleOf(const ModelConfig& model, int64_t begin, int64_t end);

}  // namespace echelon
