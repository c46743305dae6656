// The third part of Scheduler: which decodes carry drafts, and what their results say.

#include <algorithm>

#include "coordinator/scheduler.h"

namespace echelon {

std::vector<int32_t> Scheduler::Guess(const Track& track, int32_t most) const {
  const Sequence& sequence = *track.sequence;
  const Request& request = sequence.request();
  // Penalties count the tokens that were run; the worker cannot uncount a wrong guess.
  if (!request.speculate || request.params.penalised()) return {};
  // A token is drawn behind the last draft as well.
  const int32_t room = sequence.max_tokens() - sequence.generated() - track.samples_pending - 1;
  const int32_t count = std::min({most, room, track.pace.DraftsAt(sequence.known_size())});
  if (count <= 0) return {};
  return LookUpDrafts(sequence.tokens(), limits_.speculation, count);
}

std::vector<int32_t> Scheduler::DraftsFor(const Track& track, int32_t most) const {
  if (track.samples_pending > 0) return {};  // what they would continue is not known yet
  const SequenceId id = track.sequence->id();
  for (; most > 0; --most) {
    const int32_t missing = blocks_->PagesMissing(id, track.planned + 1 + most);
    // A page for each that runs stays, so that none is preempted for a guess.
    if (missing == 0 || missing + running() <= pages_free()) break;
  }
  return Guess(track, most);
}

bool Scheduler::WaitsToDraft() const {
  if (limits_.pp > 1 || in_flight_.empty()) return false;
  int32_t decoding = 0;
  for (const auto& [admission, id] : running_) decoding += IsPrefill(tracks_.at(id)) ? 0 : 1;
  const int32_t each = decoding == 0 ? 0 : limits_.speculation.drafts_max / decoding;
  if (each == 0) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const auto& entry) {
    const Track& track = tracks_.at(entry.second);
    return track.samples_pending > 0 && !Guess(track, each).empty();
  });
}

// Positions behind the last draft that was right have to be run again, with other tokens.
void Scheduler::CommitDrafts(const PlannedItem& planned, const SequenceResult& result,
                             Track& track) {
  if (planned.drafts.empty()) return;
  const auto drafted = static_cast<int32_t>(planned.drafts.size());
  const auto accepted = static_cast<int32_t>(result.sampled.size()) - 1;
  counters_.tokens_drafted += drafted;
  counters_.drafts_accepted += accepted;
  track.pace.Learn(track.sequence->known_size(), drafted, accepted);
  if (!track.dropped) track.planned = planned.row_begin + planned.rows + accepted;
}

}  // namespace echelon
