#pragma once
// ControlLink: a rank's end of the control protocol (common/control.h): a thread that owns one
// DEALER socket, so that joining, heartbeats, failures and the lease work whatever MPI or the
// executor do.
//
// Every other method may be called from any thread. The lease: when no frame has come from the
// coordinator for `lease_ms`, the thread says so on stderr and ends the process with
// kExitLostCoordinator, whatever the other threads are doing; a rank cut off from its coordinator
// cannot outlive its epoch.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/control.h"
#include "common/log.h"
#include "common/result.h"
#include "common/step.h"

namespace echelon {

// Statuses with which echelon-worker ends.
enum WorkerExit : int {
  kExitClean = 0,             // told to end, and every rank did
  kExitUsage = 2,             // wrong flags
  kExitInternal = 70,         // this rank failed: the last log line and the FAILURE frame say how
  kExitLostCoordinator = 75,  // the lease ran out, or nobody let this rank join in time
  kExitRefused = 78,          // the coordinator refused this rank: other build, other world
};

struct LinkOptions {
  std::string coordinator;  // "tcp://host:port"
  uint64_t epoch = 0;       // 0 = whatever the welcome says
  int rank = 0;
  int world = 1;
  int64_t join_timeout_ms = 60'000;
};

struct LinkEvent {
  enum Kind { kNone, kPlan, kShutdown } kind = kNone;
  std::string plan;  // EncodePlan bytes
};

class ControlLink {
 public:
  // Connects (in the background) and sends JOIN, again every second until it is answered.
  static Result<std::unique_ptr<ControlLink>> Connect(const LinkOptions& options,
                                                      const Logger& logger);
  virtual ~ControlLink() = default;  // Close()

  // Blocks until the coordinator let this rank in: the effective configuration. kInvalidArgument
  // with the coordinator's reason when it refused.
  virtual Result<std::string> AwaitWelcome() = 0;
  // What heartbeats say from now on. Called from the link's own thread.
  virtual void SetHeartbeat(std::function<HeartbeatMessage()> heartbeat) = 0;
  // From here on heartbeats are sent and the lease counts.
  virtual void StartLease(int64_t heartbeat_interval_ms, int64_t lease_ms) = 0;

  virtual void SendProgress(const ProgressMessage& progress) = 0;
  virtual void SendReady(const ReadyMessage& ready) = 0;
  virtual void SendResult(const StepResult& result) = 0;
  virtual void SendFailure(const Error& error) = 0;

  // The next plan or shutdown, waiting at most `timeout_ms` (kNone).
  virtual LinkEvent NextEvent(int64_t timeout_ms) = 0;

  // Sends what is queued (at most about a second) and ends the thread.
  virtual void Close() = 0;
};

}  // namespace echelon
