#include "coordinator/coordinator.h"

#include <algorithm>

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {

// Logs of ended requests that are kept for resuming, however short the time since their end. A log
// is a few kB; one of 8192 tokens with 20 logprobs each for prompt and text is 3 MB.
constexpr size_t kEndedMax = 1024;
constexpr int64_t kEndedBytesMax = int64_t{256} << 20;
// What waits for the tokenizer counts as a token for so many bytes of its message: English has 4 to
// 5 of them. So scheduler.queue_tokens_max bounds the texts too.
constexpr int64_t kBodyBytesPerToken = 4;

SchedulerLimits LimitsOf(const ServiceConfig& config) {
  SchedulerLimits limits;
  limits.sequences_max = static_cast<int32_t>(config.scheduler.sequences_max);
  limits.step_tokens_max = static_cast<int32_t>(config.scheduler.step_tokens_max);
  limits.steps_in_flight_max = static_cast<int32_t>(config.scheduler.steps_in_flight_max);
  limits.pp = static_cast<int32_t>(config.layout.pp);
  limits.sp = static_cast<int32_t>(config.layout.sp);
  limits.speculation.drafts_max = static_cast<int32_t>(config.scheduler.speculation_tokens_max);
  limits.speculation.ngram_max =
      static_cast<int32_t>(config.scheduler.speculation_ngram_max_tokens);
  limits.speculation.ngram_min =
      static_cast<int32_t>(config.scheduler.speculation_ngram_min_tokens);
  return limits;
}

}  // namespace

Coordinator::Coordinator(CoordinatorParts parts)
    : parts_(std::move(parts)), scheduler_(LimitsOf(parts_.config)) {}

void Coordinator::Tick() {
  DriveGroup();
  HandleClients();
  TakeEncoded();
  CheckDeadlines();
  Probe();
  SendPlans();
  parts_.frontend.Flush();
  ForgetOld();
  Report();
}

Coordinator::Entry* Coordinator::Find(SequenceId id) {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : &found->second;
}

Coordinator::Entry* Coordinator::FindByRequest(const std::string& request_id) {
  const auto found = by_request_.find(request_id);
  return found == by_request_.end() ? nullptr : Find(found->second);
}

void Coordinator::HandleClients() {
  parts_.frontend.Poll([this](FrontendEvent event) {
    switch (event.kind) {
      case FrontendEvent::Kind::kSubmit:
        return Submit(event.identity, std::move(event.request));
      case FrontendEvent::Kind::kCancel:
        return EndFor(event.request.id, FinishReason::kCancelled, nullptr);
      case FrontendEvent::Kind::kAbandoned:
        return EndFor(event.request.id, FinishReason::kError, &event.error);
      case FrontendEvent::Kind::kStatus:
        return parts_.frontend.SendStatus(event.identity, event.request.id, StatusJson());
    }
  });
}

int64_t Coordinator::Waiting() const {
  int64_t waiting = scheduler_.waiting();
  for (const auto& [id, entry] : entries_) {
    waiting += entry.stage == Stage::kEncoding || entry.stage == Stage::kHeld ? 1 : 0;
  }
  return waiting;
}

std::optional<Error> Coordinator::QueueLimit() const {
  const int64_t waiting = Waiting();
  const int64_t tokens = waiting_tokens_ + scheduler_.waiting_tokens();
  const SchedulerSettings& limits = parts_.config.scheduler;
  if (waiting >= limits.queue_requests_max) {
    return ResourceExhausted(StrCat("the queue is full: ", waiting, " requests wait, the limit is ",
                                    limits.queue_requests_max, " (scheduler.queue_requests_max)"));
  }
  if (tokens >= limits.queue_tokens_max) {
    return ResourceExhausted(StrCat("the queue is full: ", tokens,
                                    " prompt tokens wait, the limit is ", limits.queue_tokens_max,
                                    " (scheduler.queue_tokens_max)"));
  }
  return std::nullopt;
}

// About the time until a place is free: the requests ahead, sequences_max at a time.
int64_t Coordinator::RetryAfterMs() const {
  const double rounds = 1.0 + static_cast<double>(scheduler_.waiting()) /
                                  static_cast<double>(parts_.config.scheduler.sequences_max);
  return static_cast<int64_t>(std::clamp(rounds * request_seconds_ * 1000.0, 100.0, 30'000.0));
}

void Coordinator::Submit(const std::string& identity, Request request) {
  const std::string id = request.id;
  const auto refuse = [&](const Error& error, std::optional<int64_t> retry_after_ms) {
    parts_.frontend.Refuse(identity, id, error, retry_after_ms);
  };
  if (Entry* old = FindByRequest(id)) {
    CHECK(old->sequence->finish_reason() == FinishReason::kError);  // else the stream is resumed
    Forget(old->sequence->id());
  }
  if (closed_) return refuse(*closed_, {});
  if (const std::optional<Error> full = QueueLimit()) return refuse(*full, RetryAfterMs());
  if (!request.seed_given) request.params.seed = parts_.draw_seed() >> 1;  // below 2^63

  const int64_t now = parts_.clock.NowUs();
  Entry entry;
  entry.prompt = std::move(request.prompt_ids);
  // The prompt's text goes with the job: as ids it is all that is kept.
  const SequenceId sequence_id = next_id_++;
  EncodeJob job{sequence_id, std::move(request.prompt_text), std::move(request.messages)};
  if (entry.prompt.empty() && !parts_.encoder.Submit(std::move(job))) {
    return refuse(ResourceExhausted("too many prompts wait for the tokenizer"), RetryAfterMs());
  }
  const auto tokens = static_cast<int64_t>(entry.prompt.size());
  const int64_t body_tokens = static_cast<int64_t>(request.body_bytes) / kBodyBytesPerToken;
  SetWaiting(entry, entry.prompt.empty() ? body_tokens : tokens);
  if (!entry.prompt.empty()) entry.stage = Stage::kHeld;
  if (request.deadline_ms > 0) entry.deadline_us = now + request.deadline_ms * 1000;
  entry.sequence = std::make_unique<Sequence>(sequence_id, std::move(request), parts_.tokenizer);
  Sequence& sequence = *entry.sequence;
  sequence.times.accepted = now;
  ++live_;
  by_request_[id] = sequence.id();
  parts_.frontend.Open(identity, &sequence);
  Entry& placed = entries_.emplace(sequence.id(), std::move(entry)).first->second;
  if (placed.stage == Stage::kHeld) Admit(placed);
}

// What the entry counts for in queue_tokens_max while it is not with the scheduler.
void Coordinator::SetWaiting(Entry& entry, int64_t tokens) {
  waiting_tokens_ += tokens - entry.waiting_tokens;
  entry.waiting_tokens = tokens;
}

void Coordinator::TakeEncoded() {
  for (EncodedPrompt& result : parts_.encoder.Take()) {
    Entry* entry = Find(result.ticket);
    if (entry == nullptr || entry->stage != Stage::kEncoding) continue;  // ended meanwhile
    if (!result.ids.ok()) {
      Reject(*entry, result.ids.error());
      continue;
    }
    entry->prompt = std::move(result.ids).value();
    entry->stage = Stage::kHeld;
    SetWaiting(*entry, static_cast<int64_t>(entry->prompt.size()));
    Admit(*entry);
  }
}

// A held request goes to the scheduler once the group's capacity is known.
void Coordinator::Admit(Entry& entry) {
  if (!scheduler_.started()) return;
  Sequence& sequence = *entry.sequence;
  const auto prompt = static_cast<int32_t>(entry.prompt.size());
  const int64_t room = std::max<int64_t>(1, int64_t{scheduler_.capacity().context_max} - prompt);
  const int32_t max_tokens = sequence.request().max_tokens.value_or(
      static_cast<int32_t>(std::min(parts_.config.scheduler.max_tokens_default, room)));
  SetWaiting(entry, 0);
  const Status known = CheckVocabulary(entry.prompt);
  if (!known.ok()) return Reject(entry, known.error());
  sequence.SetPrompt(std::move(entry.prompt), max_tokens);
  const Status fits = scheduler_.CheckFits(prompt, max_tokens);
  if (!fits.ok()) return Reject(entry, fits.error());
  entry.stage = Stage::kScheduled;
  scheduler_.Add(&sequence);
  if (sequence.internal()) return;
  parts_.frontend.Accept(sequence.request().id, AcceptedBody(sequence, parts_.frontend.facts(),
                                                             parts_.clock.WallUnixMs() / 1000));
}

// A tokenizer may know tokens that the model has no embedding for: a text can hold them.
Status Coordinator::CheckVocabulary(const std::vector<int32_t>& prompt) const {
  const int32_t rows = scheduler_.capacity().vocab_size;
  const auto beyond =
      std::find_if(prompt.begin(), prompt.end(), [&](int32_t id) { return id >= rows; });
  if (beyond == prompt.end()) return {};
  return InvalidArgument(
      StrCat("the prompt has token ", *beyond, " at position ", beyond - prompt.begin(),
             ", which the model has no embedding for: it has ", rows),
      "prompt");
}

void Coordinator::EndFor(const std::string& request_id, FinishReason reason, const Error* error) {
  Entry* entry = FindByRequest(request_id);
  if (entry == nullptr || entry->stage == Stage::kEnded) return;
  if (error != nullptr) return Fail(*entry, *error);
  entry->sequence->Finish(reason, parts_.clock.NowUs());
  Ended(*entry);
}

// It was never accepted.
void Coordinator::Reject(Entry& entry, Error error) {
  parts_.frontend.CountRefused(error.code);
  Fail(entry, std::move(error));
}

void Coordinator::Fail(Entry& entry, Error error, std::optional<int64_t> retry_after_ms) {
  entry.sequence->Fail(std::move(error), parts_.clock.NowUs(), retry_after_ms);
  Ended(entry);
}

// The sequence has finished, for whatever reason.
void Coordinator::Ended(Entry& entry) {
  Sequence& sequence = *entry.sequence;
  CHECK(sequence.finished() && entry.stage != Stage::kEnded);
  if (entry.stage == Stage::kScheduled) scheduler_.Remove(sequence.id());
  if (entry.stage == Stage::kEncoding) parts_.encoder.Drop(sequence.id());
  SetWaiting(entry, 0);
  entry.stage = Stage::kEnded;
  entry.prompt.clear();
  --live_;
  const SequenceTimes& times = sequence.times;
  ended_.push_back({times.finished, sequence.id(), sequence.MemoryBytes()});
  ended_bytes_ += ended_.back().bytes;
  if (sequence.internal()) return;
  const double seconds = static_cast<double>(times.finished - times.accepted) / 1e6;
  parts_.metrics.RequestFinished(FinishReasonName(sequence.finish_reason()), seconds);
  if (!sequence.error()) request_seconds_ += 0.1 * (seconds - request_seconds_);
  parts_.frontend.Notify(sequence.request().id);
}

void Coordinator::Forget(SequenceId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;  // its request was tried anew
  CHECK(found->second.stage == Stage::kEnded);
  const std::string& request_id = found->second.sequence->request().id;
  if (!found->second.sequence->internal()) {
    parts_.frontend.Close(request_id);
    by_request_.erase(request_id);
  }
  entries_.erase(found);
}

void Coordinator::CheckDeadlines() {
  const int64_t now = parts_.clock.NowUs();
  for (auto& [id, entry] : entries_) {
    if (entry.deadline_us == 0 || entry.stage == Stage::kEnded || now < entry.deadline_us) continue;
    const Request& request = entry.sequence->request();
    Fail(entry, Error{ErrorCode::kDeadlineExceeded,
                      StrCat("deadline_ms ", request.deadline_ms,
                             " is over: ", entry.sequence->generated(), " tokens were generated"),
                      "deadline_ms"});
  }
}

void Coordinator::ForgetOld() {
  const int64_t before = parts_.clock.NowUs() - parts_.config.frontend.resume_ttl_ms * 1000;
  for (auto it = ended_.begin(); it != ended_.end();) {
    const bool over = ended_.size() > kEndedMax || ended_bytes_ > kEndedBytesMax;
    if (it->when_us > before && !over) return;
    const Entry* entry = Find(it->id);
    // What a client is still to take stays; the slow reader's limits bound it.
    if (entry != nullptr && !parts_.frontend.Delivered(entry->sequence->request().id)) {
      ++it;
      continue;
    }
    Forget(it->id);
    ended_bytes_ -= it->bytes;
    it = ended_.erase(it);
  }
}

void Coordinator::Drain(const Error& error) { closed_ = error; }

void Coordinator::Close(const Error& error) {
  Drain(error);
  for (auto& [id, entry] : entries_) {
    if (entry.stage != Stage::kEnded) Fail(entry, error);
  }
  parts_.frontend.Flush();
}

void Coordinator::CheckInvariants() const {
  scheduler_.CheckInvariants();
  int64_t live = 0;
  int64_t waiting_tokens = 0;
  for (const auto& [id, entry] : entries_) {
    live += entry.stage == Stage::kEnded ? 0 : 1;
    const bool held = entry.stage == Stage::kHeld;
    waiting_tokens += entry.waiting_tokens;
    CHECK(!held || entry.waiting_tokens == static_cast<int64_t>(entry.prompt.size()));
    CHECK(held || entry.stage == Stage::kEncoding || entry.waiting_tokens == 0);
    CHECK(entry.sequence->finished() == (entry.stage == Stage::kEnded));
  }
  CHECK(live == live_);
  CHECK(waiting_tokens == waiting_tokens_);
  if (live_ == 0 && scheduler_.started() && scheduler_.in_flight() == 0) {
    CHECK_MSG(scheduler_.pages_free() == scheduler_.pages_total(), "KV pages leak");
  }
}

}  // namespace echelon
