#pragma once
// MpiCommunicator: the Communicator over Open MPI (pml ob1; btl self, vader, tcp). One thread
// drives it (MPI_THREAD_FUNNELED). A peer's death ends the process (MPI_ERRORS_ARE_FATAL).
//
// An all-reduce is a one-shot exchange: receives are posted, then every rank sends its partial to
// every other, eagerly, so that the kernel's TCP stack moves the bytes while the caller computes;
// Wait adds the partials in rank order. (Open MPI progresses MPI_Iallreduce only inside MPI calls
// and picks algorithms, so sums, by size.) Beyond OneShotBytesMax a reduce-scatter and an
// all-gather by slices take over: the same sum per element, two hops, 2 / size of the bytes.
//
// Waiting polls: some microseconds of spinning, then sleeping for a fraction of the time waited so
// far (backoff.h). A rank that waits for its next plan costs some 0.3 % of a core.

#include <cstdint>
#include <memory>
#include <string>

#include "common/result.h"
#include "worker/comm/communicator.h"

namespace echelon {

// Largest all-reduce done in one shot by `size` ranks. With latency L and bandwidth W one shot
// takes L + (n - 1) B / W, two shots take 2 L + 2 (n - 1) / n B / W: equal at B = L W n / ((n - 1)
// (n - 2)). L W = 32 us * 2 GB/s = 64 KiB lies between shared memory and a 10 Gbit/s link. Two
// ranks send the same bytes either way, so one shot always wins there.
int64_t OneShotBytesMax(int size);

// MPI for the life of this object: one per process.
class MpiEnvironment {
 public:
  static Result<std::unique_ptr<MpiEnvironment>> Start();
  ~MpiEnvironment();  // MPI_Finalize: waits for the other ranks
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  std::unique_ptr<Communicator> World() const;  // collective over all ranks
  void Progress() const;                        // for a rank that waits for something else
  int ranks_on_this_host() const { return ranks_on_this_host_; }

 private:
  MpiEnvironment() = default;
  int ranks_on_this_host_ = 1;
  int64_t spin_ns_ = 0;
};

}  // namespace echelon
