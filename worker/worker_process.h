#pragma once
// What echelon-worker does from its first line to its last: join the coordinator, start MPI, open
// the model, load this rank's part, say ready, run plans until told to end. One thread
// (MPI_THREAD_FUNNELED), beside the control link's own; one per process.
//
//   JOIN -> WELCOME (configuration) -> MPI_Init -> fingerprints agree -> load -> READY -> plans
//
// The rank is taken from the launcher's environment, so that the coordinator can say which rank on
// which host has not joined before MPI is up.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/result.h"
#include "worker/comm/nccl_library.h"

namespace echelon {

struct WorkerFlags {
  std::string coordinator;           // "tcp://host:port"
  uint64_t epoch = 0;                // 0 = ask (a group that others start)
  int64_t join_timeout_ms = 60'000;  // to wait for the coordinator and the other ranks
};

struct RankIdentity {
  int rank = 0;
  int world = 1;
};
// From OMPI_COMM_WORLD_RANK/_SIZE (mpirun), SLURM_PROCID/SLURM_NTASKS (srun), PMI_RANK/PMI_SIZE;
// rank 0 of 1 where there is no launcher.
Result<RankIdentity> IdentityFromEnvironment();

// What a worker takes from the machine and a test may play.
struct WorkerParts {
  std::function<Result<std::unique_ptr<NcclLibrary>>()> load_nccl = MakeNcclLibrary;
};

// Returns the exit status: a WorkerExit of control_link.h. After anything but kExitClean the
// process must end by _exit: MPI_Finalize would wait for ranks that are not coming.
int RunWorker(const WorkerFlags& flags, const WorkerParts& parts = {});

}  // namespace echelon
