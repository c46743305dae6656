// The fourth part of Scheduler: how work is cut over the plans that fill a pipeline.

#include <algorithm>

#include "coordinator/scheduler.h"

namespace echelon {

namespace {

// A prompt that is cut into n chunks keeps pp stages busy for n of n + pp - 1 chunks' time: with
// four chunks a stage for more than 4/5 of it.
constexpr int64_t kChunksPerStage = 4;
// Below this many rows a chunk takes nearly as long as a larger one: the weights are read and
// unpacked for every chunk anew, which costs a processor about as much as 16 rows of arithmetic.
constexpr int64_t kChunkRowsMin = 32;

}  // namespace

int32_t Scheduler::DecodesOfPlan(int32_t ready) const {
  if (limits_.pp == 1) return ready;
  int32_t decoding = 0;
  for (const auto& [admission, id] : running_) decoding += IsPrefill(tracks_.at(id)) ? 0 : 1;
  const int32_t plans = limits_.steps_in_flight_max;
  const int32_t free = plans - in_flight();
  // An even share of all, but no more than leaves something for each plan that is free now.
  return std::min((decoding + plans - 1) / plans, (ready + free - 1) / free);
}

// Rows of prompts (and of replays) not planned yet, counted up to `most`.
int64_t Scheduler::PrefillBacklog(int64_t most) const {
  int64_t rows = 0;
  for (const auto& [admission, id] : running_) {
    const Track& track = tracks_.at(id);
    if (IsPrefill(track)) rows += track.sequence->known_size() - track.planned;
  }
  int32_t room = limits_.sequences_max - running();
  for (const auto& [arrival, id] : waiting_) {
    if (rows >= most || room-- <= 0) break;
    rows += tracks_.at(id).sequence->known_size();
  }
  return rows;
}

int32_t Scheduler::PrefillRowsOfPlan() {
  if (limits_.pp == 1) return limits_.step_tokens_max;
  const int64_t chunks = kChunksPerStage * limits_.pp;
  const int64_t backlog = PrefillBacklog(chunks * limits_.step_tokens_max);
  if (backlog == 0) return prefill_chunk_ = 0;
  // Chunks stay as large as the first ones were, so that they are equal to the end.
  const int64_t chunk =
      std::max<int64_t>({prefill_chunk_, kChunkRowsMin, (backlog + chunks - 1) / chunks});
  prefill_chunk_ = static_cast<int32_t>(std::min<int64_t>(chunk, limits_.step_tokens_max));
  return prefill_chunk_;
}

}  // namespace echelon
