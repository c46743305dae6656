#pragma once
// Coordinator: the state machine of the service. Requests come from the frontend, are tokenized,
// admitted, planned, sent to the worker group; results are committed to the token log and
// delivered. Each Tick does what can be done now and never blocks; time, sockets and workers are
// passed in, so that a simulation can drive all of it from a seed.
//
// Thread: one. Lifetime: all parts outlive it.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "common/clock.h"
#include "common/config.h"
#include "common/log.h"
#include "common/model/tokenizer.h"
#include "coordinator/frontend.h"
#include "coordinator/group.h"
#include "coordinator/health.h"
#include "coordinator/metrics.h"
#include "coordinator/prompt_encoder.h"
#include "coordinator/scheduler.h"

namespace echelon {

struct CoordinatorParts {
  const ServiceConfig& config;
  const Clock& clock;
  const Logger& logger;
  const Tokenizer& tokenizer;
  Frontend& frontend;
  PromptEncoder& encoder;
  WorkerGroup& group;
  Metrics& metrics;
  Health& health;
  std::function<uint64_t()> draw_seed;  // for requests that give none
};

class Coordinator {
 public:
  explicit Coordinator(CoordinatorParts parts);

  void Tick();
  // When Tick has something to do although nothing arrives: Clock::NowUs.
  int64_t NextWakeUs() const { return parts_.frontend.NextWakeUs(); }
  // The service cannot go on: the program must end with a status other than 0.
  const std::optional<Error>& failure() const { return failure_; }
  // Refuses new requests with `error`; those under way go on.
  void Drain(const Error& error);
  // No request is under way, and clients have taken what they could.
  bool quiet() const { return live_ == 0 && !parts_.frontend.HasMoreToSend(); }
  // Ends every request with `error` and takes no more; used before the program ends.
  void Close(const Error& error);

  Json StatusJson() const;
  int64_t live() const { return live_; }  // requests that have not ended, the probe included
  const Scheduler& scheduler() const { return scheduler_; }
  void CheckInvariants() const;

 private:
  enum class Stage {
    kEncoding,  // in the tokenizing thread
    kHeld,      // tokenized; the group is not ready, so that limits are not known
    kScheduled,
    kEnded,  // the log waits for resumes
  };
  struct Entry {
    std::unique_ptr<Sequence> sequence;
    Stage stage = Stage::kEncoding;
    std::vector<int32_t> prompt;  // while held
    int64_t waiting_tokens = 0;   // its part of the coordinator's
    int64_t deadline_us = 0;      // 0 = none
    bool prompt_counted = false;
    int64_t losses = 0;  // groups that were lost while it ran
  };

  // coordinator.cc: requests
  void HandleClients();
  void Submit(const std::string& identity, Request request);
  int64_t Waiting() const;  // requests that have not started
  std::optional<Error> QueueLimit() const;
  int64_t RetryAfterMs() const;
  void SetWaiting(Entry& entry, int64_t tokens);
  void TakeEncoded();
  void Admit(Entry& entry);
  Status CheckVocabulary(const std::vector<int32_t>& prompt) const;
  void Reject(Entry& entry, Error error);
  void EndFor(const std::string& request_id, FinishReason reason, const Error* error);
  void Fail(Entry& entry, Error error, std::optional<int64_t> retry_after_ms = {});
  void Ended(Entry& entry);
  void Forget(SequenceId id);
  void CheckDeadlines();
  void ForgetOld();
  Entry* Find(SequenceId id);
  Entry* FindByRequest(const std::string& request_id);

  // coordinator_steps.cc: the worker group
  void DriveGroup();
  void GroupReady();
  void GroupLost(const LostGroup& lost);
  void GiveUp(const Error& error);
  void CommitResult(const StepResult& result);
  void CommitItemOf(const CommitItem& item, const StepResult& result);
  void AppendSampled(Sequence& sequence, const SequenceResult& result, int64_t now_us);
  void SendPlans();
  void Probe();
  void Report();

  CoordinatorParts parts_;
  Scheduler scheduler_;
  std::map<SequenceId, Entry> entries_;
  std::map<std::string, SequenceId> by_request_;
  struct EndedLog {
    int64_t when_us = 0;
    SequenceId id = 0;
    int64_t bytes = 0;
  };
  std::deque<EndedLog> ended_;  // oldest first
  int64_t ended_bytes_ = 0;
  std::deque<int64_t> plan_us_;  // planning time of the steps in flight
  SequenceId next_id_ = 1;
  int64_t live_ = 0;
  int64_t waiting_tokens_ = 0;    // prompt tokens of requests on their way to the scheduler
  double request_seconds_ = 1.0;  // moving average of a request's time, for the retry hint
  int64_t last_token_us_ = 0;     // in this epoch; 0 = none yet
  int64_t last_result_us_ = 0;
  std::string last_loss_;        // for people
  std::optional<Error> closed_;  // what new requests are refused with
  std::optional<Error> failure_;
};

}  // namespace echelon
