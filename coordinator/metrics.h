#pragma once
// Metrics: what Prometheus sees of the service. Names are vLLM's stems under our prefix, with
// vLLM's buckets, so that dashboards port by replacing the prefix. Labels are bounded: rank and
// node only on per-rank metrics, never a request.
//
// Thread: every method may be called from any thread.

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "common/step.h"

namespace echelon {

class Metrics {
 public:
  // `model` and `version` stand in echelon_build_info.
  Metrics(const std::string& version, const std::string& model);
  ~Metrics();

  void ObserveQueueTime(double seconds);
  void ObserveFirstToken(double seconds);
  void ObserveInterToken(double seconds);
  void RequestFinished(const std::string& reason, double e2e_seconds);
  void AddPromptTokens(int64_t count);
  void AddGenerationTokens(int64_t count);
  void SetRequests(int64_t running, int64_t waiting);
  void SetKvUsage(double ratio);
  void ObserveRankStep(const RankTiming& timing, const std::string& node);
  void SetLoadProgress(int rank, const std::string& node, uint64_t done, uint64_t total);
  void SetGroupReady(bool ready);
  // The time this program spent planning and committing one step: the workers do not wait for it
  // while a plan is ahead.
  void ObserveStepOverhead(double seconds);
  void SetClients(int64_t clients, int64_t undelivered_bytes);
  // Totals as the owner counts them; the metric follows.
  void SetPreemptions(uint64_t total);
  void SetGroupRestarts(uint64_t total);
  void SetReplayTokensForced(uint64_t total);
  void SetDraftTokens(uint64_t drafted_total, uint64_t accepted_total);
  void AddReplayLogitMismatch();
  void SetRefused(const std::string& code, uint64_t total);  // an ErrorCodeName
  void SetDroppedFrames(uint64_t stale_total, uint64_t malformed_total);
  void SetDroppedReplies(uint64_t total);

  // The text exposition format.
  std::string Text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace echelon
