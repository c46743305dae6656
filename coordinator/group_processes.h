#pragma once
// GroupProcesses: the processes of a worker group on this host: starts the launcher in a process
// group of its own, sees it and the local ranks end (pidfd, so no pid is mistaken for its
// successor), ends them, and knows when none is left. Processes are recognised by kMarkerVariable
// in their environment, whoever their parent is by now. One thread; never blocks.
//
// The real one makes the calling process the reaper of its orphaned descendants and reaps every
// child: the program that owns it has no other children. The launcher gets SIGTERM when the thread
// that launched it dies.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "coordinator/launcher.h"

namespace echelon {

class GroupProcesses {
 public:
  virtual ~GroupProcesses() = default;
  virtual Status Launch(const LaunchCommand& command, const std::string& marker) = 0;
  // A rank that says it runs on this host as `pid`; ignored unless that process bears the marker.
  virtual void Track(int rank, uint64_t pid) = 0;
  virtual std::vector<int> DeadRanks() = 0;               // of the tracked ones
  virtual std::optional<std::string> LauncherExit() = 0;  // "mpirun: killed by signal 9"
  // Signals the launcher's process group; SIGKILL also every process with the marker.
  virtual void Signal(int signal) = 0;
  virtual bool Gone() = 0;  // launcher reaped and no process with the marker alive
};

std::unique_ptr<GroupProcesses> MakeGroupProcesses();

}  // namespace echelon
