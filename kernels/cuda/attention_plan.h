#pragma once
// How an attention op is cut into units for the device. Splits of kAttentionSplit places are
// absolute and every row's are merged in ascending order, so a row's bits do not depend on how many
// units there are or who runs them. Two kinds of unit: neighbouring rows within one split, whose
// partial results are merged afterwards, so that a long sequence beside short ones is spread over
// the whole device; and, where a batch has rows enough to fill the device, neighbouring rows with
// all they see, without partial results. Pure values; computed on the host, where positions are
// known.

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

struct AttentionLimits {
  int split_tokens = 1;          // rows of a unit within a split
  int whole_tokens = 0;          // of a unit of all splits; 0: none of these
  int64_t whole_units_min = 1;   // fewer leave the device idle
  int64_t partial_rows_max = 1;  // of the scratch memory; a row of more gets a pass of its own
  bool operator==(const AttentionLimits&) const = default;
};

// Rows whose partial results fit the scratch memory together.
struct AttentionPass {
  std::vector<AttentionUnit> units;
  std::vector<int32_t> merge_begin;  // (rows + 1) into the pass's partial rows, row after row
  std::vector<int32_t> row_of;       // (rows) of q
  std::vector<int32_t> continued;    // (rows) 1: behind what is stored
  int64_t partial_rows = 0;
  // Rounds its sizes up, for steps that repeat: units and partial rows to powers of two, the latter
  // to partial_rows_max at most, rows to `rows`; what is added does nothing.
  void FillUp(int64_t rows, int64_t partial_rows_max);
};

struct AttentionPlan {
  std::vector<AttentionRow> rows;    // (T)
  std::vector<AttentionUnit> whole;  // the longest first
  std::vector<AttentionPass> passes;
};
AttentionPlan PlanAttention(const AttentionArgs& args, const AttentionLimits& limits);

}  // namespace echelon::cuda
