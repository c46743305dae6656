#pragma once
// WorkerGroup: the coordinator's side of the worker ranks: launches them, speaks the control
// protocol (common/control.h) with every rank, notices when one is lost and brings up the next
// epoch.
//
// Driven by Tick() from the coordinator's one thread; no call blocks. A group lives through many
// epochs: starting -> loading -> ready -> (a rank is lost) relaunching -> starting -> ...; it ends
// in `failed` (more losses than the budget, or a refusal that no relaunch can cure) or `stopped`.
//
// What the coordinator does with it:
//   each turn: some group.Tick(), until it says false
//              for (error : TakeLost())    the plans in flight are gone: answer or replay requests
//              for (result : TakeResults()) commit           // only of the present epoch, in order
//              if (state() == ready)        SendPlan(plan)   // plan.epoch = epoch(), step ids from
//              1

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/control.h"
#include "common/log.h"
#include "common/result.h"
#include "common/step.h"

namespace echelon {

enum class GroupState {
  kStarting,     // launched; ranks are joining
  kLoading,      // all ranks joined; they read weights
  kReady,        // plans are taken
  kRelaunching,  // a rank was lost: the old processes are being ended, the next epoch follows
  kFailed,       // gave up: see failure(); the service must exit with a status other than 0
  kStopped,      // after Shutdown(), every process of the group is gone
};
const char* GroupStateName(GroupState state);

struct RankStatus {
  int rank = 0;
  bool joined = false;
  bool ready = false;
  std::string host;
  std::string interface;      // address through which the rank reaches the coordinator
  uint64_t pid = 0;           // on its host
  std::string backend;        // "cpu, AVX2, 2 threads", once ready
  std::string device;         // "CUDA device 0 (NVIDIA H200)", once ready; empty: no device
  uint64_t bytes_done = 0;    // of its weights
  uint64_t bytes_total = 0;   // 0 = not known yet
  uint64_t weight_bytes = 0;  // held, once ready
  uint64_t kv_bytes = 0;
  uint64_t token_bytes = 0, kv_position_bytes = 0, read_bytes_per_s = 0;  // see ReadyMessage
  int64_t last_heard_us = 0;        // Clock::NowUs of its last frame
  std::optional<Error> last_error;  // the last failure it reported, of any epoch
  HeartbeatMessage waits;           // as its last heartbeat said
};

struct GroupCapacity {
  uint32_t kv_pages = 0;  // page ids are 0 .. kv_pages - 1
  uint32_t page_tokens = 0;
  uint32_t context_max = 0;  // positions of one sequence
  uint32_t vocab_size = 0;
};

// A ready or starting epoch that ended unasked. `error` names rank and host where they are known.
struct LostGroup {
  uint64_t epoch = 0;
  Error error;
};

struct GroupCounters {
  uint64_t launches = 0;          // of the launcher, the first one included
  uint64_t relaunches = 0;        // after a loss
  uint64_t stale_frames = 0;      // of an older epoch: dropped
  uint64_t malformed_frames = 0;  // dropped
  uint64_t plans = 0;
  uint64_t results = 0;
};

class WorkerGroup {
 public:
  virtual ~WorkerGroup() = default;  // ends every process of the group (KILL), without waiting long

  // Takes frames, checks deadlines, moves the state on. True when something happened, so that
  // another call may find more to do. Before sleeping on wake_fd() call it until it says false.
  virtual bool Tick() = 0;
  // Becomes readable when frames may have arrived. Sleep at most kGroupTickMsMax on it: deadlines
  // and the launcher's end are seen by Tick alone.
  virtual int wake_fd() const = 0;

  virtual GroupState state() const = 0;
  virtual uint64_t epoch() const = 0;  // ascending from 1, by one with every launch
  virtual const std::vector<RankStatus>& ranks() const = 0;
  virtual GroupCapacity capacity() const = 0;            // zeros before the first kReady
  virtual std::string weights_fingerprint() const = 0;   // "" before the first kReady
  virtual std::string numerics_fingerprint() const = 0;  // a relaunch must bring the same one
  virtual const GroupCounters& counters() const = 0;
  virtual std::optional<Error> failure() const = 0;  // why kFailed

  // The results of the present epoch cannot be trusted: it ends as if a rank had been lost.
  virtual void Distrust(const Error& error) = 0;

  // kUnavailable unless ready; plan.epoch must be epoch().
  virtual Status SendPlan(const StepPlan& plan) = 0;
  virtual std::vector<StepResult> TakeResults() = 0;  // of the present epoch, in arrival order
  virtual std::vector<LostGroup> TakeLost() = 0;

  // Asks every rank to end; Tick on until kStopped (at most a few seconds: TERM, then KILL).
  virtual void Shutdown() = 0;
};

inline constexpr int kGroupTickMsMax = 50;

struct WorkerGroupOptions {
  GroupSettings settings;
  int world = 1;               // ranks: tp * pp * sp
  std::string config_yaml;     // PrintConfig(effective configuration): sent to every rank
  std::string worker_program;  // path of echelon-worker; the same on every host
};
// Binds the control socket and launches the first epoch. `clock` and `logger` outlive the group.
Result<std::unique_ptr<WorkerGroup>> MakeWorkerGroup(const WorkerGroupOptions& options,
                                                     const Clock& clock, const Logger& logger);

}  // namespace echelon
