// The second half of Coordinator: the worker group, steps, readiness.

#include <algorithm>

#include "common/check.h"
#include "common/control.h"
#include "common/strings.h"
#include "coordinator/coordinator.h"

namespace echelon {

namespace {

// Without a token for this long an idle group is asked for one.
constexpr int64_t kProbeIdleUs = 10'000'000;
// Ready counts as proven for a probe interval, the slowest step that is allowed, and some air.
constexpr int64_t kReadyAirUs = 5'000'000;
// A state machine that has not turned for this long is dead.
constexpr int64_t kAliveForUs = 10'000'000;
// A relaunch on this machine takes about this long; clients that come back earlier wait in the
// queue.
constexpr int64_t kRetryAfterLossMs = 1'000;

// Of the group in one turn: a group that always has more to do is peppered with frames, and the
// heartbeats of this program must go out all the same.
constexpr int kGroupTicksMax = 4;

double Seconds(int64_t us) { return static_cast<double>(us) / 1e6; }

}  // namespace

void Coordinator::DriveGroup() {
  WorkerGroup& group = parts_.group;
  for (int i = 0; i < kGroupTicksMax && group.Tick(); ++i) {
  }
  for (const LostGroup& lost : group.TakeLost()) GroupLost(lost);
  if (const std::optional<Error> failure = group.failure(); failure && !failure_) {
    return GiveUp(*failure);
  }
  if (group.state() == GroupState::kReady && !scheduler_.started()) GroupReady();
  for (const StepResult& result : group.TakeResults()) {
    if (scheduler_.started() && group.state() == GroupState::kReady) CommitResult(result);
  }
}

void Coordinator::GroupReady() {
  const GroupCapacity& capacity = parts_.group.capacity();
  last_token_us_ = last_result_us_ = 0;
  plan_us_.clear();
  scheduler_.Start(
      parts_.group.epoch(),
      {static_cast<int32_t>(capacity.kv_pages), static_cast<int32_t>(capacity.page_tokens),
       static_cast<int32_t>(capacity.context_max), static_cast<int32_t>(capacity.vocab_size)});
  ServiceFacts facts = parts_.frontend.facts();
  facts.hosts.clear();
  for (const RankStatus& rank : parts_.group.ranks()) facts.hosts.push_back(rank.host);
  parts_.frontend.SetFacts(std::move(facts));
  for (auto& [id, entry] : entries_) {
    if (entry.stage == Stage::kHeld) {
      Admit(entry);
    } else if (entry.stage == Stage::kScheduled) {  // waited through a relaunch
      const Sequence& sequence = *entry.sequence;
      const Status fits = scheduler_.CheckFits(sequence.prompt_size(), sequence.max_tokens());
      if (!fits.ok()) Fail(entry, fits.error());
    }
  }
}

// Requests wait for the next group, which computes those that had begun again from their logs. One
// that was there at too many losses may be their cause: it ends with an error that says where.
void Coordinator::GroupLost(const LostGroup& lost) {
  last_loss_ = lost.error.message;
  parts_.logger.Warn(StrCat("worker group of epoch ", lost.epoch, " lost: ", lost.error.message));
  if (!scheduler_.started()) return;
  const int64_t losses_max = parts_.config.scheduler.request_losses_max;
  int64_t kept = 0;
  for (const SequenceId id : scheduler_.StartedIds()) {
    Entry& entry = entries_.at(id);
    if (++entry.losses <= losses_max) {
      ++kept;
      continue;
    }
    Error error = lost.error;
    error.code = ErrorCode::kUnavailable;
    error.message = StrCat("the worker group was lost while this request ran (", entry.losses,
                           " times; scheduler.request_losses_max = ", losses_max,
                           "); the last time: ", lost.error.message, "; submit again");
    error.field.clear();
    Fail(entry, std::move(error), kRetryAfterLossMs);
  }
  if (kept > 0) parts_.logger.Info(StrCat(kept, " requests go on with the next group"));
  scheduler_.Stop();
}

void Coordinator::GiveUp(const Error& error) {
  failure_ = error;
  Error reply = error;
  reply.code = ErrorCode::kUnavailable;
  reply.message = StrCat("the service has given up: ", error.message);
  reply.field.clear();
  Close(reply);
}

void Coordinator::CommitResult(const StepResult& result) {
  const int64_t begin = parts_.clock.NowUs();
  last_result_us_ = begin;
  Result<std::vector<CommitItem>> items = scheduler_.Commit(result);
  if (!items.ok()) return parts_.group.Distrust(items.error());
  for (const CommitItem& item : *items) CommitItemOf(item, result);
  for (const RankTiming& timing : result.timings) {
    const auto& hosts = parts_.frontend.facts().hosts;
    const auto rank = static_cast<size_t>(timing.rank);
    parts_.metrics.ObserveRankStep(timing, rank < hosts.size() ? hosts[rank] : "");
  }
  const int64_t plan_us = plan_us_.front();
  plan_us_.pop_front();
  parts_.metrics.ObserveStepOverhead(Seconds(plan_us + parts_.clock.NowUs() - begin));
}

void Coordinator::CommitItemOf(const CommitItem& item, const StepResult& result) {
  Sequence& sequence = *item.sequence;
  Entry& entry = entries_.at(sequence.id());
  const int64_t now = parts_.clock.NowUs();
  sequence.AddTimings(result.timings);
  sequence.AddPromptLogprobs(item.row_begin, item.result->prompt_top);
  const bool internal = sequence.internal();
  if (item.prompt_complete && !entry.prompt_counted) {
    entry.prompt_counted = true;
    if (!internal) parts_.metrics.AddPromptTokens(sequence.prompt_size());
  }
  if (item.proof && !sequence.MatchesLog(item.log_index, item.result->sampled[0])) {
    parts_.metrics.AddReplayLogitMismatch();
    parts_.logger.Error(StrCat(
        "replay of sequence ", sequence.id(), " gave token ", item.result->sampled[0].token,
        " at generated position ", item.log_index, " where the log has ",
        sequence.log()[item.log_index].token, ", or another logit: the workers are not bit-exact"));
  }
  if (item.sampled) {
    AppendSampled(sequence, *item.result, now);
    sequence.drafts.drafted += item.drafted;
    sequence.drafts.accepted += static_cast<int64_t>(item.result->sampled.size()) - 1;
  } else if (item.prompt_complete && sequence.max_tokens() == 0) {
    sequence.Finish(FinishReason::kLength, now);
  }
  if (sequence.finished()) {
    Ended(entry);
  } else if (!internal && item.sampled) {
    parts_.frontend.Notify(sequence.request().id);
  }
}

// Drafts that were right come in one step: all of them arrive now, up to the sequence's end.
void Coordinator::AppendSampled(Sequence& sequence, const SequenceResult& result, int64_t now_us) {
  for (const SampledToken& token : result.sampled) {
    if (sequence.finished()) return;
    const SequenceTimes before = sequence.times;
    sequence.Append(token, now_us);
    last_token_us_ = now_us;
    if (sequence.internal()) continue;
    parts_.metrics.AddGenerationTokens(1);
    if (before.first_token == 0) {
      parts_.metrics.ObserveQueueTime(Seconds(before.first_planned - before.accepted));
      parts_.metrics.ObserveFirstToken(Seconds(now_us - before.accepted));
    } else {
      parts_.metrics.ObserveInterToken(Seconds(now_us - before.last_token));
    }
  }
}

void Coordinator::SendPlans() {
  while (parts_.group.state() == GroupState::kReady && !failure_) {
    const int64_t begin = parts_.clock.NowUs();
    const std::optional<StepPlan> plan = scheduler_.Plan(begin);
    if (!plan) return;
    const Status sent = parts_.group.SendPlan(*plan);
    plan_us_.push_back(parts_.clock.NowUs() - begin);
    if (!sent.ok()) {  // the group noticed its loss: TakeLost says so in the next turn
      parts_.logger.Warn(StrCat("plan not sent: ", sent.error().message));
      return;
    }
  }
}

// One token end to end, when nobody else asks for any: the proof behind /readyz.
void Coordinator::Probe() {
  if (!scheduler_.started() || live_ > 0 || closed_) return;
  const int64_t now = parts_.clock.NowUs();
  if (last_token_us_ != 0 && now - last_token_us_ < kProbeIdleUs) return;
  Request request;
  request.params.temperature = 0;
  request.ignore_eos = true;
  request.max_tokens = 1;
  request.deadline_ms = 0;
  Entry entry;
  entry.sequence = std::make_unique<Sequence>(next_id_++, std::move(request), parts_.tokenizer);
  entry.sequence->times.accepted = now;
  entry.prompt = {std::max(parts_.tokenizer.bos_id(), 0)};
  entry.stage = Stage::kHeld;
  SetWaiting(entry, 1);
  ++live_;
  const SequenceId id = entry.sequence->id();
  Admit(entries_.emplace(id, std::move(entry)).first->second);
}

void Coordinator::Report() {
  const int64_t now = parts_.clock.NowUs();
  Metrics& metrics = parts_.metrics;
  const bool ready = parts_.group.state() == GroupState::kReady;
  HealthReport health;
  health.alive_until_us = failure_ ? 0 : now + kAliveForUs;
  if (ready && last_token_us_ != 0 && !closed_) {
    const int64_t step_us = parts_.config.group.step_deadline_ms * 1000;
    health.ready_until_us =
        std::max(last_token_us_, last_result_us_) + kProbeIdleUs + step_us + kReadyAirUs;
  } else {
    health.reason = failure_  ? failure_->message
                    : closed_ ? closed_->message
                              : StrCat("worker group: ", GroupStateName(parts_.group.state()),
                                       ready ? ", no token produced yet" : "");
  }
  parts_.health.Set(std::move(health));

  metrics.SetRequests(scheduler_.running(), Waiting());
  const double pages = scheduler_.pages_total();
  metrics.SetKvUsage(pages > 0 ? 1.0 - scheduler_.pages_free() / pages : 0.0);
  metrics.SetClients(parts_.frontend.clients(), parts_.frontend.undelivered_bytes());
  metrics.SetPreemptions(scheduler_.counters().preemptions);
  metrics.SetReplayTokensForced(scheduler_.counters().replay_tokens_forced);
  metrics.SetDraftTokens(scheduler_.counters().tokens_drafted,
                         scheduler_.counters().drafts_accepted);
  const GroupCounters& group = parts_.group.counters();
  metrics.SetGroupRestarts(group.relaunches);
  metrics.SetDroppedFrames(group.stale_frames, group.malformed_frames);
  const FrontendCounters& clients = parts_.frontend.counters();
  for (const auto& [code, total] : clients.refused) metrics.SetRefused(ErrorCodeName(code), total);
  metrics.SetDroppedReplies(clients.dropped_replies);
  metrics.SetGroupReady(ready);
  if (parts_.group.state() == GroupState::kLoading) {
    for (const RankStatus& rank : parts_.group.ranks()) {
      metrics.SetLoadProgress(rank.rank, rank.host, rank.bytes_done, rank.bytes_total);
    }
  }
  if (live_ == 0) CheckInvariants();
}

Json Coordinator::StatusJson() const {
  const WorkerGroup& group = parts_.group;
  const ServiceFacts& facts = parts_.frontend.facts();
  Json layout = Json::MakeObject();
  layout.Set("tp", facts.tp);
  layout.Set("pp", facts.pp);
  layout.Set("sp", facts.sp);
  Json ranks = Json::MakeArray();
  for (const RankStatus& status : group.ranks()) {
    Json rank = Json::MakeObject();
    rank.Set("rank", status.rank);
    rank.Set("host", status.host);
    rank.Set("backend", status.backend);
    rank.Set("bytes_done", status.bytes_done);
    rank.Set("bytes_total", status.bytes_total);
    rank.Set("token_bytes", status.token_bytes);
    rank.Set("kv_position_bytes", status.kv_position_bytes);
    const int sp_rank = status.rank / facts.tp % facts.sp;
    const int64_t pages = scheduler_.pages_total() > 0 ? scheduler_.pages_used(sp_rank) : 0;
    rank.Set("kv_bytes", status.kv_bytes);
    rank.Set("kv_bytes_used",
             pages * group.capacity().page_tokens * static_cast<int64_t>(status.kv_position_bytes));
    rank.Set("read_bytes_per_s", status.read_bytes_per_s);
    rank.Set("joined", status.joined);
    rank.Set("ready", status.ready);
    ranks.Append(std::move(rank));
  }
  const bool failed = failure_.has_value();
  const bool lost = group.state() != GroupState::kReady && !last_loss_.empty();
  Json body = Json::MakeObject();
  body.Set("state", failed ? "failed" : GroupStateName(group.state()));
  body.Set("version", BuildId());
  body.Set("model", facts.model);
  body.Set("epoch", group.epoch());
  body.Set("layout", std::move(layout));
  body.Set("schedule", facts.schedule);
  body.Set("running", int64_t{scheduler_.running()});
  body.Set("waiting", Waiting());
  body.Set("kv_pages_free", int64_t{scheduler_.pages_free()});
  body.Set("kv_pages_total", int64_t{scheduler_.pages_total()});
  body.Set("context_max", int64_t{group.capacity().context_max});
  body.Set("message", failed ? failure_->message : lost ? last_loss_ : std::string());
  body.Set("ranks", std::move(ranks));
  return body;
}

}  // namespace echelon
