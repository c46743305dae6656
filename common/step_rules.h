#pragma once
// What the worker decides about a step and the planner foretells: one figure for both.

#include <cstdint>

namespace echelon {

// Sequence parallelism: so many decodes of a step are computed by all sp ranks, more by the ranks
// that keep their pages. Reading the weights costs as much as multiplying about this many rows with
// them, so that sharing fewer rows out saves no time and costs a message each way.
inline constexpr int kCopiedRowsMax = 8;

// A rank on a host of more ranks than cores naps for so long at least between two looks for a
// message, in nanoseconds: the one waited for needs this very core, and each look takes it away.
// With naps of 5 us tp = 3 and 4 on two cores decoded at 0.4 to 0.5 of the speed, with 120 us at
// 0.7 to 0.9.
inline constexpr int64_t kSharedCoreNapNs = 50'000;

// What two parts of a step must gain, at least, for it to be split: they take more processor time,
// and what is measured on some steps is uncertain by as much.
inline constexpr double kSplitGainMin = 0.05;

}  // namespace echelon
