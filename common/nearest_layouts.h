#pragma once
// What a refused layout could be instead: pure functions of the model's limits, so that
// coordinator, worker and command line refuse with the same words before anything is loaded.

#include <string>
#include <vector>

#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/result.h"

namespace echelon {

// What a layout may be at most.
struct LayoutLimits {
  int tp = 1;         // query heads
  int pp = 1;         // layers
  int sp = 1;         // KV pages of one sequence
  int64_t ranks = 1;  // slots of the hosts
};
// `page_tokens`, `context`: of one sequence; `ranks`: 0 = no limit.
LayoutLimits LimitsOf(const ModelConfig& model, int64_t context, int64_t page_tokens,
                      int64_t ranks = 0);

// At most `count` layouts within the limits with no more ranks than `wanted`, nearest first: as
// many ranks as possible, then the least change of each axis.
std::vector<ParallelLayout> NearestLayouts(const ParallelLayout& wanted, const LayoutLimits& limits,
                                           int count = 3);

// Refuses a layout beyond the limits: which axis, what is allowed, and the nearest layouts that
// work. The error's field is the axis.
Status CheckLayoutLimits(const ParallelLayout& wanted, const ModelConfig& model,
                         const LayoutLimits& limits);

// "; the nearest that work: tp 2 x pp 3 x sp 1, ..."
std::string NearestText(const ParallelLayout& wanted, const LayoutLimits& limits);

}  // namespace echelon
