#pragma once
// What the worker decides about a step and the planner foretells: one figure for both.

namespace echelon {

// Sequence parallelism: so many decodes of a step are computed by all sp ranks, more by the ranks
// that keep their pages. Reading the weights costs as much as multiplying about this many rows with
// them, so that sharing fewer rows out saves no time and costs a message each way.
inline constexpr int kCopiedRowsMax = 8;

// What two parts of a step must gain, at least, for it to be split: what a rehearsal measures in
// some milliseconds is uncertain by 5 %, and two parts take more processor time, which the other
// programs of a service need too while it serves: probably why decode of 8 streams was up to 20
// points worse than rehearsed on shared cores.
inline constexpr double kSplitGainMin = 0.1;

}  // namespace echelon
