#pragma once
// EpochEnd: brings the processes of an epoch to their end, wherever they run, before another epoch
// may start. Here: ask (when there is time), or else wait a moment for the launcher, which usually
// noticed too and is about to end in peace (mpirun crashes on a SIGTERM while it does) -> SIGTERM
// -> 2 s -> SIGKILL to all that is left. Elsewhere: until each rank's connection is closed or its
// lease has run out. Driven by Tick; the ranks' heartbeats must have stopped, or their leases would
// never end.

#include <cstdint>

#include "common/log.h"
#include "coordinator/control_socket.h"
#include "coordinator/group_processes.h"
#include "coordinator/rank_table.h"

namespace echelon {

class EpochEnd {
 public:
  EpochEnd(GroupProcesses& processes, ControlSocket& socket, const RankTable& ranks,
           const Logger& logger, int64_t lease_ms, bool launched_here)
      : processes_(processes),
        socket_(socket),
        ranks_(ranks),
        logger_(logger),
        lease_us_(lease_ms * 1000),
        launched_here_(launched_here) {}

  // `ask`: first let the ranks end by themselves.
  void Begin(int64_t now_us, uint64_t epoch, bool ask);
  // True once nothing of the epoch can be alive any more.
  bool Tick(int64_t now_us);

 private:
  enum class Phase { kAsk, kWait, kTerm, kKill, kDone };
  void Enter(Phase phase, int64_t now_us);
  bool EveryoneGone(int64_t now_us);

  GroupProcesses& processes_;
  ControlSocket& socket_;
  const RankTable& ranks_;
  const Logger& logger_;
  const int64_t lease_us_;
  const bool launched_here_;
  uint64_t epoch_ = 0;
  Phase phase_ = Phase::kDone;
  int64_t began_us_ = 0;
  int64_t phase_us_ = 0;  // when the phase was entered
  int64_t last_look_us_ = 0;
  int64_t last_kill_us_ = 0;
};

}  // namespace echelon
