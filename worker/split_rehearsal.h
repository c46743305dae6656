#pragma once
// Rehearsal: how long a layer takes whole and in two parts, on this rank's real weights and over
// the real link, for a few numbers of rows. What token_split.h decides by; done once, as the ranks
// start, before any sequence is known.

#include <vector>

#include "common/clock.h"
#include "common/rank_part.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/decoder.h"
#include "worker/token_split.h"

namespace echelon {

// Collective over `tp`, and the same answer on all of its ranks: the slowest rank's times,
// ascending rows; none where the stage has one layer. `cache` is the decoder's; its first pages are
// written. rows_max: of a step. Times about half a second's passes at most, each behind one that is
// not timed.
std::vector<SplitTimes> RehearseSplit(const ModelConfig& model, const RankPart& part,
                                      Decoder& decoder, const KvCache& cache, Communicator& tp,
                                      int rows_max, const Clock& clock);

// The greatest times of all ranks. Collective over `group`.
SplitTimes SlowestOf(const SplitTimes& mine, Communicator& group);

}  // namespace echelon
