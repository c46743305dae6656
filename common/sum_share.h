#pragma once
// Who sums what in an all-reduce: the rule that the worker follows (worker/comm/reduction.h) and
// the planner counts with. Pure functions; bytes are those of the message.

#include <cstdint>

namespace echelon {

enum class SumShare : uint8_t {
  kEach,   // every rank sums everything: one exchange
  kHost,   // the ranks of a host share the sum out, and hand the parts on among themselves
  kGroup,  // all ranks share the sum out: two exchanges
};

// Largest all-reduce between `hosts` of one rank each that is exchanged once. With latency L and
// bandwidth W one exchange takes L + (n - 1) B / W, two take 2 L + 2 (n - 1) / n B / W: equal at
// B = L W n / ((n - 1) (n - 2)), L W = 32 us * 2 GB/s = 64 KiB. Two hosts send the same bytes
// either way, so one exchange always wins there.
int64_t OneExchangeBytesMax(int hosts);

// The same on all ranks of a group.
SumShare ShareOf(int hosts, int ranks_per_host_max, int64_t bytes);

}  // namespace echelon
