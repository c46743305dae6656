#pragma once
// GroupDriver: plays the coordinator core over a real worker group: one greedy sequence at a time,
// no scheduler. What the chaos tests kill things under. One thread, real time.

#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/log.h"
#include "coordinator/group.h"

namespace echelon::testing {

// A folder with the config.json of a tiny Llama, for random weights; removed at the end.
class TinyModel {
 public:
  TinyModel();
  ~TinyModel();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Two ranks on this machine with impatient deadlines; `model` empty: the tiny random one at `path`.
ServiceConfig ChaosConfig(const std::string& path);

// build/bin/echelon-worker, or `name` in the folder of this test program.
std::string WorkerProgram();
std::string TestProgram(const std::string& name);

class GroupDriver {
 public:
  // Fails the test (and ok() is false) where the group cannot even be launched.
  explicit GroupDriver(const ServiceConfig& config,
                       const std::string& worker_program = WorkerProgram());
  bool ok() const { return group_ != nullptr; }
  WorkerGroup& group() { return *group_; }

  // Ticks until `done` or the time is over.
  bool Until(const std::function<bool()>& done, int64_t timeout_ms);
  bool UntilState(GroupState state, int64_t timeout_ms);
  // Greedy continuation of `prompt`; shorter than `count` when the group was lost on the way.
  // `each` is called with the number of tokens so far, after each step.
  std::vector<int32_t> Generate(const std::vector<int32_t>& prompt, int count,
                                const std::function<void(int)>& each = {});
  std::vector<LostGroup> TakeLost() { return group_->TakeLost(); }

  // Pids of the present epoch: every rank's, in rank order.
  std::vector<pid_t> RankPids() const;

 private:
  std::optional<int32_t> Step(StepPlan plan);

  SystemClock clock_;
  Logger logger_{"chaos"};
  std::unique_ptr<WorkerGroup> group_;
  uint64_t next_sequence_ = 1;
  uint64_t epoch_ = 0;  // that next_step_ counts in
  uint64_t next_step_ = 1;
};

// Any process but zombies.
bool IsAlive(pid_t pid);
// The launcher: the parent of a rank.
pid_t ParentOf(pid_t pid);

// What groups of the coordinator `pid` hold in /tmp and /dev/shm.
std::vector<std::string> FilesOf(pid_t pid);

}  // namespace echelon::testing
