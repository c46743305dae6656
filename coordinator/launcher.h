#pragma once
// Launcher: the command that starts a worker group, as a table of ways (local, hostfile, slurm) and
// one pure function, so that a test and `echelon plan` can show the words before anything runs.

#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/result.h"

namespace echelon {

struct LaunchRequest {
  GroupSettings settings;
  int world = 1;
  std::string worker_program;
  std::string endpoint;  // the coordinator's socket as the ranks reach it
  uint64_t epoch = 1;
  std::string marker;                  // value of kMarkerVariable in every process of the epoch
  bool root = false;                   // Open MPI wants to be told
  std::vector<std::string> forwarded;  // ForwardedVariables, for mpirun over hosts
  std::string session_folder;          // local: for the launcher's sockets; "" = its own choice
  std::string memory_folder;           // local: for the ranks' shared memory; "" = its own choice
};

// Set in the environment of every process of an epoch: "<coordinator pid>.<its start
// time>.<epoch>".
inline constexpr char kMarkerVariable[] = "ECHELON_GROUP";

struct LaunchCommand {
  std::vector<std::string> words;  // empty for launcher external: others start the group
  std::vector<std::pair<std::string, std::string>> environment;
};
Result<LaunchCommand> MakeLaunchCommand(const LaunchRequest& request);

// Those of an environment's variables ("NAME=value", ended by a null) that the ranks of all hosts
// are to have: what NCCL and CUDA are told, unless it is true of one host alone. Sorted names.
std::vector<std::string> ForwardedVariables(const char* const* environment);

// The host each rank is to run on, as far as the settings tell ("" where they do not): for messages
// about ranks that have not joined.
Result<std::vector<std::string>> ExpectedHosts(const GroupSettings& settings, int world);

// Ranks that the hosts take, where a host file says so; 0 = the settings do not tell.
Result<int64_t> SlotsOf(const GroupSettings& settings);

// Where to bind the workers' socket: group.endpoint, except that a loopback address cannot be
// reached from other hosts and gives way to group.interface, or to the route towards the first
// other host.
Result<std::string> ControlBindEndpoint(const GroupSettings& settings);

}  // namespace echelon
