// echelon-worker with emulated CUDA devices, so that a real service runs the code of GPU workers on
// a machine without one: mpirun, real processes, and NCCL played between them. Takes the flags that
// a coordinator gives its workers.
//
//   SIGUSR1   the rank's device has met an illegal access
//   SIGUSR2   its NCCL reports an error
//   SIGHUP    its NCCL hangs: an operation that its device comes to does not end

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/worker/process_nccl.h"
#include "worker/control_link.h"
#include "worker/worker_process.h"

namespace {

std::atomic<const char*>& Fault() {
  static std::atomic<const char*> fault = nullptr;
  return fault;
}

std::atomic<bool>& Hangs() {
  static std::atomic<bool> hangs = false;
  return hangs;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace echelon;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGUSR1, [](int) { emulation::BreakDevices(); });
  signal(SIGHUP, [](int) { Hangs() = true; });
  signal(SIGUSR2, [](int) { Fault() = "unhandled system error (played)"; });
  emulation::SetEager(true);  // streams wait for other ranks

  std::map<std::string, std::string> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  WorkerFlags flags;
  flags.coordinator = given["--coordinator"];
  flags.epoch = std::strtoull(given["--epoch"].c_str(), nullptr, 10);
  if (given.count("--join-timeout-ms") > 0) {
    flags.join_timeout_ms = std::atoll(given["--join-timeout-ms"].c_str());
  }
  WorkerParts parts;
  parts.load_nccl = []() -> Result<std::unique_ptr<NcclLibrary>> {
    const char* const interface = std::getenv("NCCL_SOCKET_IFNAME");
    std::fprintf(stderr, "played NCCL: NCCL_SOCKET_IFNAME is %s\n",
                 interface ? interface : "unset");
    const testing::PlayedDevice device{emulation::EnqueueOn, emulation::CopyDevice};
    return std::unique_ptr<NcclLibrary>(
        std::make_unique<testing::ProcessNccl>(device, &Fault(), &Hangs()));
  };
  const int status = RunWorker(flags, parts);
  std::fflush(nullptr);
  if (status != kExitClean) _exit(status);
  return status;
}
