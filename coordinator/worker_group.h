#pragma once
// The WorkerGroup of MakeWorkerGroup, with the processes passed in: for the tests, which play ranks
// and launcher. One thread; see group.h for the life of a group.

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/control_socket.h"
#include "coordinator/epoch_end.h"
#include "coordinator/epoch_scratch.h"
#include "coordinator/group.h"
#include "coordinator/group_processes.h"
#include "coordinator/rank_table.h"

namespace echelon {

class ManagedGroup final : public WorkerGroup {
 public:
  ManagedGroup(const WorkerGroupOptions& options, std::vector<std::string> expected_hosts,
               std::unique_ptr<ControlSocket> socket, std::unique_ptr<GroupProcesses> processes,
               const Clock& clock, const Logger& logger);
  ~ManagedGroup() override;

  Status Start();  // launches the first epoch
  const std::string& endpoint() const { return socket_->endpoint(); }

  bool Tick() override;
  int wake_fd() const override { return socket_->fd(); }
  GroupState state() const override { return state_; }
  uint64_t epoch() const override { return epoch_; }
  const std::vector<RankStatus>& ranks() const override { return ranks_.status(); }
  GroupCapacity capacity() const override { return capacity_; }
  std::string weights_fingerprint() const override { return weights_fingerprint_; }
  std::string numerics_fingerprint() const override { return numerics_fingerprint_; }
  const GroupCounters& counters() const override { return counters_; }
  std::optional<Error> failure() const override { return failure_; }
  void Distrust(const Error& error) override;
  Status SendPlan(const StepPlan& plan) override;
  std::vector<StepResult> TakeResults() override { return std::exchange(results_, {}); }
  std::vector<LostGroup> TakeLost() override { return std::exchange(lost_, {}); }
  void Shutdown() override;

 private:
  struct InFlight {
    uint64_t step_id = 0;
    int64_t sent_us = 0;
  };
  struct Loss {
    Error error;
    int64_t act_us = 0;  // when to act on it, unless a better reason comes first
    bool final = false;  // no relaunch can cure it
  };

  bool alive() const { return state_ <= GroupState::kReady; }
  Status Launch();

  void Handle(const ControlFrame& frame);
  void HandleJoin(const ControlFrame& frame);
  void HandleFromRank(const ControlFrame& frame, int rank);
  void HandleReady(int rank, const std::string& body);
  void HandleResult(const std::string& body);
  void HandleFailure(int rank, const std::string& body);
  void Welcome();
  void BecomeReady();
  void Refuse(const ControlFrame& frame, const std::string& reason);
  bool SendTo(int rank, ControlType type, const std::string& body);

  void NoticeOwnPause(int64_t now_us);
  void CheckProcesses(int64_t now_us);
  void CheckSilence(int64_t now_us);
  void CheckStateDeadline(int64_t now_us);
  void CheckSteps(int64_t now_us);
  void SendHeartbeats(int64_t now_us);
  void ReportWaiting(int64_t now_us);

  Error RankError(int rank, const std::string& what) const;
  void Lose(Error error, int64_t grace_us, bool final = false);
  void EndEpoch(Loss loss);
  void GiveUp(Error error);
  bool AfterEnd(int64_t now_us);  // the epoch's processes are gone

  const WorkerGroupOptions options_;
  const GroupSettings& settings_;
  const bool external_;
  const Clock& clock_;
  const Logger& logger_;
  std::unique_ptr<ControlSocket> socket_;
  std::unique_ptr<GroupProcesses> processes_;
  RankTable ranks_;
  EpochEnd end_;

  GroupState state_ = GroupState::kStarting;
  uint64_t epoch_ = 0;
  std::string marker_prefix_;
  std::unique_ptr<EpochScratch> scratch_;  // of a local launcher
  bool stopping_ = false;
  bool ever_ready_ = false;
  std::optional<Loss> loss_;
  std::optional<Error> failure_;
  std::deque<int64_t> relaunched_us_;  // those that count
  int64_t relaunch_at_us_ = 0;
  int64_t state_since_us_ = 0;
  int64_t last_tick_us_ = 0;
  int64_t last_heartbeat_us_ = 0;
  int64_t last_report_us_ = 0;

  std::deque<InFlight> in_flight_;
  int64_t oldest_since_us_ = 0;  // since when the oldest step is the one being computed
  bool first_step_ = true;       // of the epoch
  std::vector<StepResult> results_;
  std::vector<LostGroup> lost_;
  GroupCapacity capacity_;
  std::string weights_fingerprint_, numerics_fingerprint_;
  GroupCounters counters_;
  uint64_t malformed_bodies_ = 0;
};

}  // namespace echelon
