#pragma once
// An all-reduce of a group. Who sums what is the one thing that varies (SumShare):
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

#include "worker/comm/group_comm.h"

namespace echelon {

enum class SumShare { kEach, kHost, kGroup };

// Largest all-reduce between `hosts` of one rank each that is exchanged once. With latency L and
// bandwidth W one exchange takes L + (n - 1) B / W, two take 2 L + 2 (n - 1) / n B / W: equal at
// B = L W n / ((n - 1) (n - 2)), L W = 32 us * 2 GB/s = 64 KiB. Two hosts send the same bytes
// either way, so one exchange always wins there.
int64_t OneExchangeBytesMax(int hosts);

// The same on all ranks of a group.
SumShare ShareOf(int hosts, int ranks_per_host_max, int64_t bytes);

// data (count): this rank's contribution, then the sum. count > 0, at least two ranks.
std::unique_ptr<GroupOperation> MakeReduction(GroupWires& wires, float* data, int64_t count);

}  // namespace echelon
