#include "worker/timing_report.h"

#include <type_traits>

namespace echelon {

static_assert(std::is_trivially_copyable_v<RankTiming>);

std::vector<RankTiming> TimingReport::Report(const RankTiming& mine) {
  if (world_.rank() != result_rank_) {
    if (sent_) world_.Wait(*sent_);
    outgoing_ = mine;
    sent_ = world_.Send(&outgoing_, sizeof(outgoing_), result_rank_);
    return {};
  }
  std::vector<RankTiming> all;
  for (int rank = 0; rank < world_.size(); ++rank) {
    if (rank == result_rank_) {
      all.push_back(mine);
    } else if (others_reported_) {
      RankTiming timing;
      world_.Wait(world_.Recv(&timing, sizeof(timing), rank));
      all.push_back(timing);
    }
  }
  others_reported_ = true;
  return all;
}

}  // namespace echelon
