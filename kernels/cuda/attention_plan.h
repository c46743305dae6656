#pragma once
// How an attention op is cut into units for the device: a unit is one row's places within one split
// of kAttentionSplit places. Splits are absolute and every row's are merged in ascending order, so
// a row's bits do not depend on how many units there are or who runs them; equal units are equal
// work whatever the rows' lengths. Pure values; computed on the host, where positions are known.

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

// Rows whose partial results fit the scratch memory together.
struct AttentionPass {
  std::vector<SplitUnit> units;
  std::vector<int32_t> merge_begin;  // (rows + 1) into the pass's partial rows, row after row
  std::vector<int32_t> row_of;       // (rows) of q
  std::vector<int32_t> continued;    // (rows) 1: behind what is stored
  // Rounds its sizes up, for steps that repeat: units to a power of two, rows to `rows`; what is
  // added does nothing.
  void FillUp(int64_t rows);
};

// `partial_rows_max`: of the scratch memory; a row with more splits gets a pass of its own.
std::vector<AttentionPass> PlanAttention(const AttentionArgs& args, int64_t partial_rows_max);

}  // namespace echelon::cuda
