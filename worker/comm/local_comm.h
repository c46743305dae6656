#pragma once
// Local communicators: threads of one process as the ranks of a group, the ranks of one host
// without another (group_comm.h), so that tests and one-process runs execute the code of the
// cluster.
//
// Each endpoint is driven by its own thread, from its first call on. A rank that never issues what
// the others wait for leaves them waiting: threads of one process do not die alone.

#include <memory>
#include <vector>

#include "worker/comm/communicator.h"

namespace echelon {

// The endpoints of a new group of `size` ranks: element r belongs to rank r. size > 0.
std::vector<std::unique_ptr<Communicator>> MakeLocalCommunicators(int size);

}  // namespace echelon
