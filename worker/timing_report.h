#pragma once
// TimingReport: brings every rank's timing of a step to the rank that returns the results, without
// anyone waiting: ranks send theirs as a step ends, and the result rank takes them up a step later,
// when they have long arrived. One thread; collective over `world` in that every rank reports every
// step once.

#include <optional>
#include <vector>

#include "common/step.h"
#include "worker/comm/communicator.h"

namespace echelon {

class TimingReport {
 public:
  // `world`: rank numbers as in RankTiming; outlives the report.
  TimingReport(Communicator& world, int result_rank) : world_(world), result_rank_(result_rank) {}

  // On the result rank: its own timing of this step, the others' of the step before. Elsewhere:
  // none.
  std::vector<RankTiming> Report(const RankTiming& mine);

 private:
  Communicator& world_;
  const int result_rank_;
  RankTiming outgoing_;  // until it is sent
  std::optional<CommHandle> sent_;
  bool others_reported_ = false;
};

}  // namespace echelon
