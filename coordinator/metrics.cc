#include "coordinator/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <mutex>
#include <sstream>

namespace echelon {

namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

// vLLM's (vllm/v1/metrics/buckets.py), so that percentiles compare.
const Buckets& FirstTokenBuckets() {
  static const Buckets buckets = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}
const Buckets& InterTokenBuckets() {
  static const Buckets buckets = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                  .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
  return buckets;
}
const Buckets& RequestBuckets() {
  static const Buckets buckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}
// A step takes from about 0.1 ms (a small model on a GPU) to seconds (a prefill chunk on CPUs).
const Buckets& StepBuckets() {
  static const Buckets buckets = {.0001, .00025, .0005, .001, .0025, .005, .01, .025,
                                  .05,   .1,     .25,   .5,   1,     2.5,  5,   10};
  return buckets;
}
// Planning and committing a step of up to 64 sequences is tens of microseconds.
const Buckets& OverheadBuckets() {
  static const Buckets buckets = {.00001, .000025, .00005, .0001, .00025, .0005,
                                  .001,   .0025,   .005,   .01,   .05,    .1};
  return buckets;
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;

  Counter& NewCounter(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
  }
  Gauge& NewGauge(const std::string& name, const std::string& help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
  }
  Histogram& NewHistogram(const std::string& name, const std::string& help,
                          const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }
  static void Follow(Counter& counter, uint64_t total) {
    const double behind = static_cast<double>(total) - counter.Value();
    if (behind > 0) counter.Increment(behind);
  }

  Histogram& queue_time = NewHistogram("echelon_request_queue_time_seconds",
                                       "From acceptance to the first step.", RequestBuckets());
  Histogram& first_token = NewHistogram("echelon_time_to_first_token_seconds",
                                        "From acceptance to the first token.", FirstTokenBuckets());
  Histogram& inter_token = NewHistogram("echelon_inter_token_latency_seconds",
                                        "Between two tokens of a request.", InterTokenBuckets());
  Histogram& e2e = NewHistogram("echelon_e2e_request_latency_seconds",
                                "From acceptance to the end of a request.", RequestBuckets());
  Histogram& overhead = NewHistogram(
      "echelon_scheduler_step_overhead_seconds",
      "Time the coordinator spent on planning and committing one step.", OverheadBuckets());
  Gauge& running = NewGauge("echelon_requests_running", "Requests in the running batch.");
  Gauge& waiting = NewGauge("echelon_requests_waiting", "Requests that wait to run.");
  Gauge& kv_usage = NewGauge("echelon_kv_cache_usage_ratio", "KV pages in use, 0 to 1.");
  Gauge& group_ready = NewGauge("echelon_group_ready", "1 while the worker group takes steps.");
  Gauge& clients = NewGauge("echelon_clients", "Clients that read a stream.");
  Gauge& undelivered =
      NewGauge("echelon_undelivered_bytes", "Generated output that clients have not taken yet.");
  Counter& prompt_tokens = NewCounter("echelon_prompt_tokens_total", "Prompt tokens computed.");
  Counter& generation_tokens =
      NewCounter("echelon_generation_tokens_total", "Tokens generated for clients.");
  Counter& preemptions =
      NewCounter("echelon_preemptions_total", "Requests set back because KV pages ran out.");
  Counter& restarts =
      NewCounter("echelon_group_restarts_total", "Relaunches of the worker group after a loss.");
  Counter& forced = NewCounter("echelon_replay_tokens_forced_total",
                               "Emitted tokens that were fed again, not sampled.");
  Counter& mismatches =
      NewCounter("echelon_replay_logit_mismatch_total",
                 "Replayed positions whose token or logit differed from the log; must stay 0.");
  Counter& drafted =
      NewCounter("echelon_spec_decode_num_draft_tokens_total", "Tokens guessed by speculation.");
  Counter& drafts_accepted = NewCounter("echelon_spec_decode_num_accepted_tokens_total",
                                        "Guessed tokens that were what the model drew.");
  Family<Counter>& finished = prometheus::BuildCounter()
                                  .Name("echelon_request_success_total")
                                  .Help("Requests that ended, by reason.")
                                  .Register(registry);
  Family<Counter>& refused = prometheus::BuildCounter()
                                 .Name("echelon_requests_refused_total")
                                 .Help("Requests refused before they ran, by error code.")
                                 .Register(registry);
  // By code: looking a series up by its labels costs more than to follow a total, once a turn.
  std::mutex refused_mutex;
  std::map<std::string, Counter*> refused_by_code;
  Family<Counter>& frames =
      prometheus::BuildCounter()
          .Name("echelon_group_frames_dropped_total")
          .Help(
              "Messages on the workers' control socket that were dropped: of an epoch that is "
              "over, or malformed.")
          .Register(registry);
  Counter& stale_frames = frames.Add({{"reason", "stale"}});
  Counter& malformed_frames = frames.Add({{"reason", "malformed"}});
  Counter& dropped_replies =
      NewCounter("echelon_replies_dropped_total",
                 "Refusals, pongs and statuses that a client did not take in time.");
  Family<Histogram>& rank_step =
      prometheus::BuildHistogram()
          .Name("echelon_rank_step_seconds")
          .Help("A rank's time in one step by phase: compute, comm_hidden, comm_exposed.")
          .Register(registry);
  Family<Counter>& ring_attentions =
      prometheus::BuildCounter()
          .Name("echelon_ring_attentions_total")
          .Help("Attentions of a sequence in a layer over sp ranks, by what was passed.")
          .Register(registry);
  // A rank's histograms by phase: looking a series up by its labels costs more than observing.
  std::mutex rank_mutex;
  std::map<std::pair<int, std::string>, std::array<Histogram*, 3>> rank_phases;
  Family<Gauge>& load_done = prometheus::BuildGauge()
                                 .Name("echelon_load_progress_bytes")
                                 .Help("Weight bytes a rank has read.")
                                 .Register(registry);
  Family<Gauge>& load_total = prometheus::BuildGauge()
                                  .Name("echelon_load_size_bytes")
                                  .Help("Weight bytes a rank has to read.")
                                  .Register(registry);
};

Metrics::Metrics(const std::string& version, const std::string& model)
    : impl_(std::make_unique<Impl>()) {
  prometheus::BuildGauge()
      .Name("echelon_build_info")
      .Help("1; the labels say what runs.")
      .Register(impl_->registry)
      .Add({{"version", version}, {"model_name", model}})
      .Set(1);
  for (const char* reason : {"stop", "length", "cancelled", "error"}) {
    impl_->finished.Add({{"finished_reason", reason}});  // a series that is 0 is no missing one
  }
  for (const char* code :
       {"invalid_argument", "unsupported", "resource_exhausted", "unavailable", "not_found"}) {
    impl_->refused.Add({{"code", code}});
  }
}

Metrics::~Metrics() = default;

void Metrics::ObserveQueueTime(double seconds) { impl_->queue_time.Observe(seconds); }
void Metrics::ObserveFirstToken(double seconds) { impl_->first_token.Observe(seconds); }
void Metrics::ObserveInterToken(double seconds) { impl_->inter_token.Observe(seconds); }

void Metrics::RequestFinished(const std::string& reason, double e2e_seconds) {
  impl_->finished.Add({{"finished_reason", reason}}).Increment();
  impl_->e2e.Observe(e2e_seconds);
}

void Metrics::AddPromptTokens(int64_t count) {
  impl_->prompt_tokens.Increment(static_cast<double>(count));
}

void Metrics::AddGenerationTokens(int64_t count) {
  impl_->generation_tokens.Increment(static_cast<double>(count));
}

void Metrics::SetRequests(int64_t running, int64_t waiting) {
  impl_->running.Set(static_cast<double>(running));
  impl_->waiting.Set(static_cast<double>(waiting));
}

void Metrics::SetKvUsage(double ratio) { impl_->kv_usage.Set(ratio); }

void Metrics::ObserveRankStep(const RankTiming& timing, const std::string& node) {
  std::array<Histogram*, 3> phases{};
  {
    const std::lock_guard lock(impl_->rank_mutex);
    std::array<Histogram*, 3>& known = impl_->rank_phases[{timing.rank, node}];
    static constexpr const char* kPhases[] = {"compute", "comm_hidden", "comm_exposed"};
    for (size_t i = 0; i < known.size() && known[i] == nullptr; ++i) {
      known[i] = &impl_->rank_step.Add(
          {{"phase", kPhases[i]}, {"rank", std::to_string(timing.rank)}, {"node", node}},
          StepBuckets());
    }
    phases = known;
  }
  phases[0]->Observe(timing.compute_seconds);
  phases[1]->Observe(timing.comm_hidden_seconds);
  phases[2]->Observe(timing.comm_exposed_seconds);
  const auto passed = [&](const char* what, uint32_t count) {
    if (count == 0) return;  // a service without sequence parallelism has no such series
    impl_->ring_attentions
        .Add({{"passed", what}, {"rank", std::to_string(timing.rank)}, {"node", node}})
        .Increment(count);
  };
  passed("queries", timing.queries_passed);
  passed("keys", timing.keys_passed);
}

void Metrics::SetLoadProgress(int rank, const std::string& node, uint64_t done, uint64_t total) {
  const prometheus::Labels labels = {{"rank", std::to_string(rank)}, {"node", node}};
  impl_->load_done.Add(labels).Set(static_cast<double>(done));
  impl_->load_total.Add(labels).Set(static_cast<double>(total));
}

void Metrics::SetGroupReady(bool ready) { impl_->group_ready.Set(ready ? 1 : 0); }
void Metrics::ObserveStepOverhead(double seconds) { impl_->overhead.Observe(seconds); }

void Metrics::SetClients(int64_t clients, int64_t undelivered_bytes) {
  impl_->clients.Set(static_cast<double>(clients));
  impl_->undelivered.Set(static_cast<double>(undelivered_bytes));
}

void Metrics::SetPreemptions(uint64_t total) { Impl::Follow(impl_->preemptions, total); }
void Metrics::SetGroupRestarts(uint64_t total) { Impl::Follow(impl_->restarts, total); }
void Metrics::SetReplayTokensForced(uint64_t total) { Impl::Follow(impl_->forced, total); }
void Metrics::SetDraftTokens(uint64_t drafted_total, uint64_t accepted_total) {
  Impl::Follow(impl_->drafted, drafted_total);
  Impl::Follow(impl_->drafts_accepted, accepted_total);
}
void Metrics::AddReplayLogitMismatch() { impl_->mismatches.Increment(); }

void Metrics::SetRefused(const std::string& code, uint64_t total) {
  const std::lock_guard lock(impl_->refused_mutex);
  Counter*& series = impl_->refused_by_code[code];
  if (series == nullptr) series = &impl_->refused.Add({{"code", code}});
  Impl::Follow(*series, total);
}
void Metrics::SetDroppedFrames(uint64_t stale_total, uint64_t malformed_total) {
  Impl::Follow(impl_->stale_frames, stale_total);
  Impl::Follow(impl_->malformed_frames, malformed_total);
}
void Metrics::SetDroppedReplies(uint64_t total) { Impl::Follow(impl_->dropped_replies, total); }

std::string Metrics::Text() const {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->registry.Collect());
  return out.str();
}

}  // namespace echelon
