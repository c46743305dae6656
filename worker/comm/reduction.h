#pragma once
// An all-reduce of a group. Who sums what is the one thing that varies (common/sum_share.h):
//
//   kEach   every rank sums everything.            One exchange; each rank reads size - 1 messages.
//   kHost   the ranks of a host share the sum out. Each element crosses to another host once per
//           contributing rank; the sums come back through shared memory.
//   kGroup  all ranks share the sum out.           Two exchanges between hosts, fewer bytes.
//
// With H hosts of m ranks and B bytes a host sends m (H - 1) B under kHost and 2 m (H - 1) / H B
// under kGroup; under kEach it would be m m (H - 1) B. Adding on each host first and exchanging
// sums would be (H - 1) B, but then the order of the sum, and so its bits, would depend on the
// placement of the ranks.

#include <cstdint>
#include <memory>

#include "common/sum_share.h"
#include "worker/comm/group_comm.h"

namespace echelon {

// data (count): this rank's contribution, then the sum. count > 0, at least two ranks.
std::unique_ptr<GroupOperation> MakeReduction(GroupWires& wires, float* data, int64_t count);

}  // namespace echelon
