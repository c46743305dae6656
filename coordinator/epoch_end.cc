#include "coordinator/epoch_end.h"

#include <signal.h>

#include "common/network.h"
#include "common/strings.h"

namespace echelon {

namespace {
constexpr int64_t kAskUs = 3'000'000;        // MPI_Finalize over a few hosts takes well under 1 s
constexpr int64_t kWaitUs = 300'000;         // mpirun needs some 30 ms
constexpr int64_t kTermUs = 2'000'000;       // mpirun needs up to 1.1 s to end its ranks
constexpr int64_t kKillAgainUs = 500'000;    // for what was forked meanwhile
constexpr int64_t kLookUs = 20'000;          // a look walks /proc: about 1 ms
constexpr int64_t kLeaseMarginUs = 500'000;  // a rank looks at its lease every 100 ms
}  // namespace

void EpochEnd::Begin(int64_t now_us, uint64_t epoch, bool ask) {
  epoch_ = epoch;
  began_us_ = now_us;
  last_look_us_ = 0;
  Enter(ask ? Phase::kAsk : Phase::kWait, now_us);
}

void EpochEnd::Enter(Phase phase, int64_t now_us) {
  phase_ = phase;
  phase_us_ = now_us;
  if (phase == Phase::kTerm) processes_.Signal(SIGTERM);
  if (phase == Phase::kKill) {
    logger_.Warn(StrCat("epoch ", epoch_, ": processes left after SIGTERM; sending SIGKILL"));
    processes_.Signal(SIGKILL);
    last_kill_us_ = now_us;
  }
}

bool EpochEnd::Tick(int64_t now_us) {
  if (phase_ == Phase::kDone) return true;
  if (last_look_us_ != 0 && now_us - last_look_us_ < kLookUs) return false;
  const bool first_look = last_look_us_ == 0;
  last_look_us_ = now_us;
  if (!first_look && EveryoneGone(now_us)) {
    phase_ = Phase::kDone;
    return true;
  }
  if (first_look) EveryoneGone(now_us);  // tells every rank to end
  const int64_t in_phase_us = now_us - phase_us_;
  if (phase_ == Phase::kAsk && in_phase_us >= kAskUs) Enter(Phase::kTerm, now_us);
  if (phase_ == Phase::kWait && in_phase_us >= kWaitUs) Enter(Phase::kTerm, now_us);
  if (phase_ == Phase::kTerm && in_phase_us >= kTermUs) Enter(Phase::kKill, now_us);
  if (phase_ == Phase::kKill && now_us - last_kill_us_ >= kKillAgainUs) {
    processes_.Signal(SIGKILL);
    last_kill_us_ = now_us;
  }
  return false;
}

// The shutdown frame tells a rank to end, and failing to send it proves that its process is gone:
// its kernel closed the connection. A rank behind a broken link proves nothing; its lease ends it.
bool EpochEnd::EveryoneGone(int64_t now_us) {
  const bool here_gone = processes_.Gone();
  bool gone = here_gone || !launched_here_;
  for (const RankStatus& status : ranks_.status()) {
    if (!status.joined) continue;
    if (launched_here_ && here_gone && status.host == HostName()) continue;
    ControlHeader header;
    header.type = ControlType::kShutdown;
    header.epoch = epoch_;
    header.rank = static_cast<uint32_t>(status.rank);
    const bool connected = socket_.Send(ranks_.peer(status.rank), header, "");
    if (connected && now_us - began_us_ < lease_us_ + kLeaseMarginUs) gone = false;
  }
  return gone;
}

}  // namespace echelon
