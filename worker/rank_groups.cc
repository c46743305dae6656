#include "worker/rank_groups.h"

#include <cstdlib>

namespace echelon {

Result<RankGroups> RankGroups::Make(Communicator& world, const ParallelLayout& layout,
                                    const RankPosition& at, Backend& backend,
                                    const StepCommOptions& options) {
  const int stage = at.pp * layout.sp + at.sp, pipeline = at.sp * layout.tp + at.tp,
            sharing = at.pp * layout.tp + at.tp;
  StepCommOptions own = options;
  if (!own.watch) own.watch = std::make_shared<WireWatch>();
  // A rank alone has no wire, and sleeps where a watch would have it look at the clock.
  if (layout.world() > 1) {
    backend.SetWatch([watch = own.watch](bool over) { return watch->Check(over); });
  }
  // In the same order on every rank.
  const auto tensors = [&](int color, int key) {
    return MakeStepCommunicator(world.Split(color, key), backend, own);
  };
  RankGroups groups;
  ASSIGN_OR_RETURN(groups.tp, tensors(stage, at.tp));
  groups.exchange = world.Split(stage, at.tp);
  // First the pairs that an even stage begins, then those of an odd one.
  const int pairs_max = layout.pp / 2 + 1;
  for (const int first : {0, 1}) {
    auto& link = at.pp % 2 == first ? groups.next : groups.previous;
    ASSIGN_OR_RETURN(link, tensors(pipeline * pairs_max + (at.pp + first) / 2, at.pp));
  }
  groups.tokens = world.Split(pipeline, at.pp);
  groups.reports = world.Split(0, world.rank());
  ASSIGN_OR_RETURN(groups.sharing, tensors(sharing, at.sp));
  ASSIGN_OR_RETURN(groups.ring, tensors(sharing, at.sp));
  own.watch->Connects(groups.OnStream(layout, at));
  return groups;
}

std::vector<int> RankGroups::OnStream(const ParallelLayout& layout, const RankPosition& at) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout.world(); ++rank) {
    const RankPosition other = layout.PositionOf(rank);
    const bool tp_differs = other.tp != at.tp, pp_differs = other.pp != at.pp,
               sp_differs = other.sp != at.sp;
    if (tp_differs + pp_differs + sp_differs != 1) continue;
    const Communicator& comm = tp_differs         ? *tp
                               : sp_differs       ? *ring
                               : other.pp > at.pp ? *next
                                                  : *previous;
    if (comm.on_stream() && std::abs(other.pp - at.pp) <= 1) ranks.push_back(rank);
  }
  return ranks;
}

void RankGroups::Poll() const {
  for (Communicator* comm : {tp.get(), next.get(), previous.get(), sharing.get(), ring.get()}) {
    comm->Poll();
  }
}

CommStats RankGroups::TakeStats() const {
  CommStats sum;
  for (Communicator* comm : {tp.get(), exchange.get(), next.get(), previous.get(), tokens.get(),
                             sharing.get(), ring.get()}) {
    const CommStats stats = comm->TakeStats();
    sum.exposed_seconds += stats.exposed_seconds;
    sum.hidden_seconds += stats.hidden_seconds;
    sum.bytes_sent += stats.bytes_sent;
    sum.operations += stats.operations;
  }
  return sum;
}

}  // namespace echelon
