// echelon-worker: one rank. Started by mpirun or srun, usually on the coordinator's behalf.

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "common/control.h"
#include "common/model/checkpoint.h"
#include "common/planner/hosts_file.h"
#include "worker/calibration.h"
#include "worker/control_link.h"
#include "worker/worker_process.h"

namespace {

int PrintCalibration(const std::string& model, const std::string& backend) {
  using namespace echelon;
  const auto checkpoint = OpenCheckpoint(model);
  Status status = checkpoint.ok() ? Status() : Status(checkpoint.error());
  std::optional<Calibrator> calibrator;
  if (status.ok()) calibrator.emplace(**checkpoint, BackendOptions{.name = backend});
  constexpr int kRounds = 2;
  for (int round = 0; status.ok() && round < kRounds; ++round) status = calibrator->Measure();
  if (!status.ok()) {
    std::fprintf(stderr, "echelon-worker: %s\n", status.error().message.c_str());
    return kExitUsage;
  }
  const Calibration measured = calibrator->Rates();
  Cluster cluster{{measured.host}, measured.inside, measured.inside};
  cluster.hosts[0].slots = measured.host.cores;
  std::printf("# Measured: %s. GPUs are not: their rates are written by hand.\n",
              measured.backend.c_str());
  std::fputs(PrintHosts(cluster).c_str(), stdout);
  return kExitClean;
}

}  // namespace

int main(int argc, char** argv) {
  // No rank outlives its launcher's process on this host; across hosts the lease sees to it.
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) return echelon::kExitLostCoordinator;
  // Sleeping in steps of microseconds between polls: the default slack of 50 us would round them
  // up.
  prctl(PR_SET_TIMERSLACK, 1'000);

  echelon::WorkerFlags flags;
  std::string calibrate, backend = "auto";
  CLI::App app("One rank of an Echelon worker group; mpirun or srun starts it");
  app.set_version_flag("--version", echelon::BuildId());
  app.add_option("--coordinator", flags.coordinator, "the coordinator's socket for workers")
      ->type_name("ENDPOINT");
  auto* const calibrates =
      app.add_option("--calibrate", calibrate,
                     "measure this machine with a model and print a hosts file for echelon plan")
          ->type_name("MODEL");
  app.add_option("--backend", backend, "what is measured; auto: the CPU")
      ->check(CLI::IsMember({"auto", "cpu", "reference"}))
      ->needs(calibrates);
  app.add_option("--epoch", flags.epoch, "of the group; 0 = ask the coordinator");
  app.add_option("--join-timeout-ms", flags.join_timeout_ms,
                 "how long to wait for the coordinator and the other ranks")
      ->check(CLI::Range(int64_t{1}, int64_t{86'400'000}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? echelon::kExitClean : echelon::kExitUsage;
  }
  if (!calibrate.empty()) return PrintCalibration(calibrate, backend);
  if (flags.coordinator.empty()) {
    std::fprintf(stderr, "echelon-worker: --coordinator or --calibrate is required\n");
    return echelon::kExitUsage;
  }
  const int status = echelon::RunWorker(flags);
  std::fflush(nullptr);
  _exit(status);  // what libraries do at an exit (CUDA's, NCCL's, MPI's) meets threads of theirs
}
