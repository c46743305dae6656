#pragma once
// RankGroups: the groups a rank belongs to, each with a queue of its own, so that waiting for one
// message never waits for another kind. Tensors travel over tp, next, previous, sharing and ring,
// from the backend's own memory; over the others what the host knows. One thread.

#include <memory>
#include <vector>

#include "common/parallel_layout.h"
#include "common/result.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/comm/step_comm.h"

namespace echelon {

struct RankGroups {
  std::unique_ptr<Communicator> tp;        // tensors: all-reduces of the stage
  std::unique_ptr<Communicator> exchange;  // the sampler's small messages
  // This stage and the one behind it, this one and the one before it; at the ends of the pipeline
  // alone. Pairs, since what carries their messages depends on both ends: two stages on devices
  // need not go by way of the host because a third is on a CPU.
  std::unique_ptr<Communicator> next, previous;  // tensors: rank 0 sends to rank 1
  std::unique_ptr<Communicator> tokens;          // last stage -> first stage
  std::unique_ptr<Communicator> reports;         // the whole world
  std::unique_ptr<Communicator> sharing, ring;   // sp: queries and partials; keys and values

  // Collective over `world`, in host memory. All outlive the groups.
  static Result<RankGroups> Make(Communicator& world, const ParallelLayout& layout,
                                 const RankPosition& at, Backend& backend,
                                 const StepCommOptions& options);
  // Moves on what is in flight while the rank computes.
  void Poll() const;
  // Of everything a step waits for; the reports wait for nothing.
  CommStats TakeStats() const;

 private:
  // The ranks of the world that exchange with this one in its device's streams.
  std::vector<int> OnStream(const ParallelLayout& layout, const RankPosition& at) const;
};

}  // namespace echelon
