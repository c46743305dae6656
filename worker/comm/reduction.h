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

class Reduction : public GroupOperation {
 public:
  // From now on the sum goes into data. Until this or TakeRows is called the operation does not
  // complete where the sum is this rank's to make.
  virtual void SumIntoData() = 0;
  // What this rank reads is there, and the others have what they read of it.
  virtual bool HasArrived() = 0;
  // The next rows that lie ready (communicator.h), none: not yet, or all were taken, which
  // Advance() tells apart. What was taken before is given back.
  virtual SumRows TakeRows() = 0;
};

// data (rows, cols): this rank's contribution. rows, cols > 0.
std::unique_ptr<Reduction> MakeReduction(GroupWires& wires, float* data, int64_t rows,
                                         int64_t cols);

}  // namespace echelon
