#pragma once
// Local communicator: threads of one process as the ranks of a group. The same contract as between
// processes (communicator.h), so that tests and one-process runs execute the code of the cluster.
//
// Each endpoint is driven by its own thread. The endpoints share the group's state, which lives as
// long as the last of them. A contribution is copied when it is issued and dropped when every rank
// has read it; a sender blocks while kLocalMailboxBytes wait between one pair of ranks. A rank that
// waits sleeps. A rank that never issues what the others wait for leaves them waiting: threads of
// one process do not die alone.

#include <cstddef>
#include <memory>
#include <vector>

#include "worker/comm/communicator.h"

namespace echelon {

// Bytes in flight from one rank to another; one larger message may always travel alone.
inline constexpr size_t kLocalMailboxBytes = size_t{64} << 20;

// The endpoints of a new group of `size` ranks: element r belongs to rank r. size > 0.
std::vector<std::unique_ptr<Communicator>> MakeLocalCommunicators(int size);

}  // namespace echelon
