#include "coordinator/worker_group.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/control.h"
#include "common/network.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int kFramesPerTickMax = 1024;   // so that a flood cannot hold the coordinator's thread
constexpr int64_t kReportUs = 5'000'000;  // one line of waiting every 5 s
constexpr int64_t kLossGraceUs = 50'000;  // for the FAILURE frame of a rank that just died
constexpr int64_t kRelaunchDelayUs = 500'000;  // times the relaunches in the window before this one
constexpr int kFirstStepFactor = 4;            // first step of an epoch: page faults, warm-up

}  // namespace

const char* GroupStateName(GroupState state) {
  switch (state) {
    case GroupState::kStarting:
      return "starting";
    case GroupState::kLoading:
      return "loading";
    case GroupState::kReady:
      return "ready";
    case GroupState::kRelaunching:
      return "relaunching";
    case GroupState::kFailed:
      return "failed";
    case GroupState::kStopped:
      return "stopped";
  }
  return "unknown";
}

ManagedGroup::ManagedGroup(const WorkerGroupOptions& options,
                           std::vector<std::string> expected_hosts,
                           std::unique_ptr<ControlSocket> socket,
                           std::unique_ptr<GroupProcesses> processes, const Clock& clock,
                           const Logger& logger)
    : options_(options),
      settings_(options_.settings),
      external_(settings_.launcher == "external"),
      clock_(clock),
      logger_(logger),
      socket_(std::move(socket)),
      processes_(std::move(processes)),
      ranks_(options.world, std::move(expected_hosts)),
      end_(*processes_, *socket_, ranks_, logger, settings_.lease_ms, !external_),
      marker_prefix_(StrCat(getpid(), ".", clock.WallUnixMs(), ".")) {}

ManagedGroup::~ManagedGroup() {
  if (!external_) processes_->Signal(SIGKILL);
  constexpr int kLooks = 50;  // 20 ms apart: what was killed needs a moment to be reaped
  for (int i = 0; i < kLooks && !external_ && !processes_->Gone(); ++i) usleep(20'000);
}

Status ManagedGroup::Start() { return Launch(); }

Status ManagedGroup::Launch() {
  ++epoch_;
  ranks_.Reset();
  in_flight_.clear();
  first_step_ = true;
  LaunchRequest request;
  request.settings = settings_;
  request.world = options_.world;
  request.worker_program = options_.worker_program;
  request.endpoint = socket_->endpoint();
  request.epoch = epoch_;
  request.marker = marker_prefix_ + std::to_string(epoch_);
  request.root = geteuid() == 0;
  request.forwarded = ForwardedVariables(environ);
  if (settings_.launcher == "local") {
    scratch_.reset();  // of the epoch before: all its processes are gone
    scratch_ = std::make_unique<EpochScratch>(request.marker);
    request.session_folder = scratch_->sessions();
    request.memory_folder = scratch_->shared_memory();
  }
  ASSIGN_OR_RETURN(const LaunchCommand command, MakeLaunchCommand(request));
  RETURN_IF_ERROR(processes_->Launch(command, request.marker));
  ++counters_.launches;
  state_ = GroupState::kStarting;
  state_since_us_ = last_report_us_ = clock_.NowUs();
  logger_.Info(
      StrCat("epoch ", epoch_, ": ",
             external_ ? StrCat("waiting for ", options_.world, " ranks at ", socket_->endpoint())
                       : StrCat("launching: ", echelon::Join(command.words, " "))));
  return {};
}

bool ManagedGroup::Tick() {
  const int64_t now_us = clock_.NowUs();
  NoticeOwnPause(now_us);
  int frames = 0;
  for (; frames < kFramesPerTickMax; ++frames) {
    const auto frame = socket_->Receive();
    if (!frame) break;
    Handle(*frame);
  }
  counters_.malformed_frames = socket_->malformed() + malformed_bodies_;
  if (alive() && !loss_) {
    CheckProcesses(now_us);
    CheckSilence(now_us);
    CheckStateDeadline(now_us);
    CheckSteps(now_us);
    SendHeartbeats(now_us);
    ReportWaiting(now_us);
  }
  if (alive() && loss_ && now_us >= loss_->act_us) {
    EndEpoch(*std::exchange(loss_, std::nullopt));
    return true;
  }
  if (!alive() && state_ != GroupState::kStopped && end_.Tick(now_us)) {
    return AfterEnd(now_us) || frames > 0;
  }
  return frames > 0;
}

// When this process itself was stopped (SIGSTOP, a suspended machine), the ranks were not silent:
// what they said meanwhile is still on its way through the socket's own thread.
void ManagedGroup::NoticeOwnPause(int64_t now_us) {
  const int64_t gap_us = last_tick_us_ == 0 ? 0 : now_us - last_tick_us_;
  last_tick_us_ = now_us;
  if (gap_us < settings_.heartbeat_timeout_ms * 1000 / 2) return;
  for (int rank = 0; rank < ranks_.world(); ++rank) ranks_.status(rank).last_heard_us += gap_us;
  oldest_since_us_ += gap_us;
}

Error ManagedGroup::RankError(int rank, const std::string& what) const {
  Error error = InternalError(StrCat(ranks_.Where(rank), ": ", what));
  error.rank = rank;
  error.host = ranks_.status()[rank].host;
  return error;
}

void ManagedGroup::CheckProcesses(int64_t) {
  if (const std::vector<int> dead = processes_->DeadRanks(); !dead.empty()) {
    std::string what = StrCat("process ", ranks_.status(dead[0]).pid, " died");
    // mpirun ends a dead rank's peers at once: on a busy machine they are found together, and which
    // of them went first cannot be known any more.
    for (size_t i = 1; i < dead.size(); ++i) {
      what += StrCat(i == 1 ? ", as did " : ", ", ranks_.Where(dead[i]));
    }
    return Lose(RankError(dead[0], what), kLossGraceUs);
  }
  const auto exit = processes_->LauncherExit();
  if (!exit) return;
  const bool nobody = std::none_of(ranks_.status().begin(), ranks_.status().end(),
                                   [](const RankStatus& s) { return s.joined; });
  // A launcher that never brought up a single rank will not do better the next time.
  Lose(InternalError(StrCat(*exit, nobody ? ", and no rank had joined: see its output above" : "")),
       kLossGraceUs, nobody && !ever_ready_);
}

void ManagedGroup::CheckSilence(int64_t now_us) {
  for (const RankStatus& status : ranks_.status()) {
    if (!status.joined) continue;
    const int64_t silent_us = now_us - status.last_heard_us;
    if (silent_us > settings_.heartbeat_timeout_ms * 1000) {
      return Lose(RankError(status.rank, StrCat("no heartbeat for ", silent_us / 1000,
                                                " ms (group.heartbeat_timeout_ms = ",
                                                settings_.heartbeat_timeout_ms, ")")),
                  0);
    }
  }
}

void ManagedGroup::CheckStateDeadline(int64_t now_us) {
  const int64_t waited_ms = (now_us - state_since_us_) / 1000;
  if (state_ == GroupState::kStarting && !external_ && waited_ms > settings_.join_deadline_ms) {
    Lose(InternalError(StrCat("after ", waited_ms, " ms (group.join_deadline_ms = ",
                              settings_.join_deadline_ms, "): ", ranks_.DescribeMissing())),
         0);
  }
  if (state_ == GroupState::kLoading && waited_ms > settings_.load_deadline_ms) {
    Lose(InternalError(StrCat("not loaded after ", waited_ms, " ms (group.load_deadline_ms = ",
                              settings_.load_deadline_ms, "): ", ranks_.DescribeLoading())),
         0);
  }
}

void ManagedGroup::CheckSteps(int64_t now_us) {
  if (in_flight_.empty()) return;
  const int64_t deadline_ms = settings_.step_deadline_ms * (first_step_ ? kFirstStepFactor : 1);
  const int64_t waited_ms = (now_us - oldest_since_us_) / 1000;
  if (waited_ms <= deadline_ms) return;
  Lose(InternalError(
           StrCat("step ", in_flight_.front().step_id, " has had no result for ", waited_ms,
                  " ms (group.step_deadline_ms = ", settings_.step_deadline_ms, ")",
                  ranks_.DescribeWaits(now_us, 2 * settings_.heartbeat_interval_ms * 1000))),
       0);
}

void ManagedGroup::SendHeartbeats(int64_t now_us) {
  if (now_us - last_heartbeat_us_ < settings_.heartbeat_interval_ms * 1000) return;
  last_heartbeat_us_ = now_us;
  for (int rank = 0; rank < ranks_.world() && !loss_; ++rank) {
    if (ranks_.status(rank).joined && !SendTo(rank, ControlType::kHeartbeat, "")) {
      Lose(RankError(rank, "its connection closed: the process died"), kLossGraceUs);
    }
  }
}

void ManagedGroup::ReportWaiting(int64_t now_us) {
  if (state_ == GroupState::kReady || now_us - last_report_us_ < kReportUs) return;
  last_report_us_ = now_us;
  const int64_t seconds = (now_us - state_since_us_) / 1'000'000;
  const bool joining = state_ == GroupState::kStarting;
  logger_.Info(StrCat("epoch ", epoch_, ": ", joining ? "joining" : "loading", " for ", seconds,
                      " s: ", joining ? ranks_.DescribeMissing() : ranks_.DescribeLoading()));
}

// The first reason stands, but for the grace a better one may replace it: the FAILURE frame of the
// rank says more than its death does.
void ManagedGroup::Lose(Error error, int64_t grace_us, bool final) {
  if (!loss_) loss_ = Loss{std::move(error), clock_.NowUs() + grace_us, final};
}

void ManagedGroup::Distrust(const Error& error) {
  if (!alive()) return;
  loss_.reset();
  EndEpoch({error, 0, false});
}

void ManagedGroup::EndEpoch(Loss loss) {
  logger_.Error(StrCat("epoch ", epoch_, " is lost: ", loss.error.message));
  lost_.push_back({epoch_, loss.error});
  // An attempt may last longer than the window (a rank that does not join, a first step that
  // hangs): only a group that has worked lets older relaunches be forgotten.
  const bool worked = state_ == GroupState::kReady && (!first_step_ || in_flight_.empty());
  in_flight_.clear();
  results_.clear();
  const int64_t now_us = clock_.NowUs();
  while (worked && !relaunched_us_.empty() &&
         now_us - relaunched_us_.front() > settings_.relaunch_window_ms * 1000) {
    relaunched_us_.pop_front();
  }
  if (loss.final) {
    GiveUp(std::move(loss.error));
  } else if (static_cast<int64_t>(relaunched_us_.size()) >= settings_.relaunches_max) {
    loss.error.message =
        StrCat("the worker group was lost ", relaunched_us_.size() + 1, " times",
               worked ? StrCat(" within ", settings_.relaunch_window_ms, " ms")
                      : std::string(", the last time before it had computed a step"),
               " (group.relaunches_max = ", settings_.relaunches_max,
               "); the last time: ", loss.error.message);
    GiveUp(std::move(loss.error));
  } else {
    state_ = GroupState::kRelaunching;
    relaunch_at_us_ = now_us + kRelaunchDelayUs * static_cast<int64_t>(relaunched_us_.size());
  }
  state_since_us_ = now_us;
  end_.Begin(now_us, epoch_, false);
}

void ManagedGroup::GiveUp(Error error) {
  logger_.Error(StrCat("giving up: ", error.message));
  failure_ = std::move(error);
  state_ = GroupState::kFailed;
}

bool ManagedGroup::AfterEnd(int64_t now_us) {
  if (state_ == GroupState::kFailed && !stopping_) return false;
  if (stopping_) {
    logger_.Info("the worker group has ended");
    state_ = GroupState::kStopped;
    return true;
  }
  if (now_us < relaunch_at_us_) return false;
  relaunched_us_.push_back(now_us);
  ++counters_.relaunches;
  const Status launched = Launch();
  if (!launched.ok()) GiveUp(launched.error());
  return true;
}

void ManagedGroup::Shutdown() {
  if (stopping_) return;
  stopping_ = true;
  if (state_ == GroupState::kFailed) return;  // its end has begun
  const bool was_alive = alive();
  state_ = GroupState::kRelaunching;  // until every process is gone
  if (was_alive) end_.Begin(clock_.NowUs(), epoch_, true);
}

Result<std::unique_ptr<WorkerGroup>> MakeWorkerGroup(const WorkerGroupOptions& options,
                                                     const Clock& clock, const Logger& logger) {
  CHECK(options.world >= 1);
  const bool local = options.settings.launcher == "local";
  if (local && access(options.worker_program.c_str(), X_OK) != 0) {
    return NotFound(StrCat("cannot run the worker program ", options.worker_program,
                           ": build or install echelon-worker beside the coordinator"));
  }
  ASSIGN_OR_RETURN(auto hosts, ExpectedHosts(options.settings, options.world));
  ASSIGN_OR_RETURN(const std::string endpoint, ControlBindEndpoint(options.settings));
  ASSIGN_OR_RETURN(auto socket, ControlSocket::Bind(endpoint));
  logger.Info(StrCat("workers join at ", socket->endpoint()));
  auto group = std::make_unique<ManagedGroup>(options, std::move(hosts), std::move(socket),
                                              MakeGroupProcesses(), clock, logger);
  RETURN_IF_ERROR(group->Start());
  return std::unique_ptr<WorkerGroup>(std::move(group));
}

}  // namespace echelon
