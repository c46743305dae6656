#pragma once
// MPI as the wire between ranks: Open MPI (pml ob1; btl self, vader, tcp), one thread
// (MPI_THREAD_FUNNELED), a peer's death ends the process (MPI_ERRORS_ARE_FATAL). Ranks of one host
// find each other through MPI and then exchange through memory of their own (group_comm.h); MPI
// carries what goes to other hosts, or everything where memory cannot be shared.
//
// Between hosts receives are posted, then every rank sends eagerly, so that the kernel's TCP stack
// moves the bytes while the caller computes; Wait adds the partials in rank order. (Open MPI
// progresses MPI_Iallreduce only inside MPI calls and picks algorithms, so sums, by size.)

#include <functional>
#include <memory>
#include <string>

#include "common/result.h"
#include "worker/comm/communicator.h"
#include "worker/comm/progress.h"

namespace echelon {

struct MpiOptions {
  bool shared_memory = true;  // false: MPI carries what ranks of one host exchange, too
  // Which host a rank (of the world) is to believe it is on, a number from 0 on; empty: the one it
  // is on. Only for ranks that are on one machine: what separates hosts can be tried on it.
  std::function<int(int rank)> pretended_host;
};

// MPI for the life of this object: one per process.
class MpiEnvironment {
 public:
  static Result<std::unique_ptr<MpiEnvironment>> Start(const MpiOptions& options = {});
  ~MpiEnvironment();  // MPI_Finalize: waits for the other ranks
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  std::unique_ptr<Communicator> World() const;  // collective over all ranks
  // For a rank that waits for something else; whether anything of its own is under way still.
  bool MoveOn() const;
  // Of this rank; for any thread, also after this object's life.
  std::shared_ptr<const LongWait> long_wait() const { return progress_->long_wait(); }
  int ranks_on_this_host() const { return ranks_on_this_host_; }
  int rank_on_this_host() const { return rank_on_this_host_; }
  // Why this host's ranks do not share memory though they should; "" = they do, or need not.
  const std::string& shared_memory_problem() const { return shared_memory_problem_; }

 private:
  MpiEnvironment() = default;
  void TakePlace(const MpiOptions& options);

  int ranks_on_this_host_ = 1, rank_on_this_host_ = 0;
  std::string shared_memory_problem_;
  std::shared_ptr<Progress> progress_;
  std::unique_ptr<Communicator> base_;  // the world before ranks know their hosts
};

}  // namespace echelon
