#include "coordinator/scheduler.h"

#include <algorithm>

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

Scheduler::Scheduler(SchedulerLimits limits) : limits_(limits) {
  CHECK(limits_.sequences_max > 0 && limits_.step_tokens_max > 0);
  CHECK(limits_.pp > 0 && limits_.sp > 0);
  // Every running sequence must be able to decode in one step.
  limits_.sequences_max = std::min(limits_.sequences_max, limits_.step_tokens_max);
  if (limits_.steps_in_flight_max <= 0) {
    limits_.steps_in_flight_max = limits_.pp == 1 ? 2 : limits_.pp;
  }
  blocks_ = std::make_unique<BlockManager>(0, 1);
}

void Scheduler::Start(uint64_t epoch, SchedulerCapacity capacity) {
  CHECK(!started_ && capacity.page_tokens > 0);
  capacity_ = capacity;
  blocks_ = std::make_unique<BlockManager>(capacity.pages, capacity.page_tokens, limits_.sp);
  epoch_ = epoch;
  next_step_ = 1;
  started_ = true;
}

void Scheduler::Stop() {
  started_ = false;
  in_flight_.clear();
  released_.clear();
  pages_coming_ = prefill_chunk_ = 0;
  running_.clear();
  blocks_ = std::make_unique<BlockManager>(capacity_.pages, capacity_.page_tokens, limits_.sp);
  for (auto it = tracks_.begin(); it != tracks_.end();) {
    Track& track = it->second;
    if (track.sequence == nullptr) {
      it = tracks_.erase(it);
      continue;
    }
    Track fresh;
    fresh.sequence = track.sequence;
    fresh.arrival = track.arrival;
    track = fresh;
    waiting_.emplace(track.arrival, it->first);
    ++it;
  }
}

std::vector<SequenceId> Scheduler::StartedIds() const {
  std::vector<SequenceId> ids;
  for (const auto& [id, track] : tracks_) {
    if (track.sequence == nullptr) continue;
    if (track.running || track.sequence->generated() > 0) ids.push_back(id);
  }
  return ids;
}

Status Scheduler::CheckFits(int32_t prompt_tokens, int32_t max_tokens) const {
  const int64_t total = int64_t{prompt_tokens} + max_tokens;
  if (total > capacity_.context_max) {
    return InvalidArgument(
        StrCat("prompt of ", prompt_tokens, " tokens and max_tokens ", max_tokens, " are ", total,
               " positions; the context holds ", capacity_.context_max),
        prompt_tokens >= capacity_.context_max ? "prompt" : "max_tokens");
  }
  // The last token generated is never fed.
  const int64_t fed = std::max<int64_t>(prompt_tokens, total - 1);
  const int32_t pages = blocks_->PagesFor(fed);
  if (pages > blocks_->pages_total()) {
    return ResourceExhausted(StrCat(
        "the request may need ", pages, " KV pages of ", capacity_.page_tokens, " tokens (prompt ",
        prompt_tokens, " + max_tokens ", max_tokens, "); the service has ", blocks_->pages_total(),
        ": shorten it, or raise worker.kv_memory_bytes"));
  }
  return Status();
}

void Scheduler::Add(Sequence* sequence) {
  CHECK(sequence != nullptr && !sequence->prompt().empty() && !sequence->finished());
  Track track;
  track.sequence = sequence;
  track.arrival = next_arrival_++;
  waiting_.emplace(track.arrival, sequence->id());
  CHECK(tracks_.emplace(sequence->id(), track).second);
}

void Scheduler::Remove(SequenceId id) {
  const auto found = tracks_.find(id);
  if (found == tracks_.end() || found->second.sequence == nullptr) return;
  Track& track = found->second;
  if (track.running) {
    Drop(track);
  } else {
    waiting_.erase(track.arrival);
  }
  track.sequence = nullptr;
  if (track.plans_in_flight == 0) tracks_.erase(found);
}

int64_t Scheduler::waiting_tokens() const {
  int64_t tokens = 0;
  for (const auto& [arrival, id] : waiting_) tokens += tracks_.at(id).sequence->prompt_size();
  return tokens;
}

bool Scheduler::IsRunning(SequenceId id) const {
  const auto found = tracks_.find(id);
  return found != tracks_.end() && found->second.running;
}

// Takes a running sequence's place and pages away.
void Scheduler::Drop(Track& track) {
  const SequenceId id = track.sequence->id();
  running_.erase(track.admission);
  track.running = false;
  if (!track.first) released_.push_back(id);
  if (track.plans_in_flight == 0) {
    blocks_->Free(id);
  } else {
    track.dropped = true;
    const auto* table = blocks_->TableOf(id);
    pages_coming_ += table == nullptr ? 0 : static_cast<int32_t>(table->size());
  }
}

void Scheduler::Preempt(Track& track) {
  Drop(track);
  track.first = true;
  track.planned = 0;
  track.pages_hashed = 0;
  waiting_.emplace(track.arrival, track.sequence->id());
  ++counters_.preemptions;
}

bool Scheduler::NothingLeft(const Track& track) const {
  return track.sequence->generated() + track.samples_pending >= track.sequence->max_tokens();
}

bool Scheduler::IsPrefill(const Track& track) const {
  const int32_t known = track.sequence->known_size();
  return track.planned < (track.sequence->generated() == 0 ? known : known - 1);
}

bool Scheduler::CanDecode(const Track& track) const {
  if (NothingLeft(track) || IsPrefill(track)) return false;
  const int32_t known = track.sequence->known_size();
  if (track.samples_pending == 0) return track.planned == known - 1;
  return limits_.pp == 1 && track.samples_pending == 1 && track.planned == known &&
         track.last_plan + 1 == next_step_;
}

bool Scheduler::MakeRoom(Track& track) {
  const SequenceId id = track.sequence->id();
  const int32_t positions = std::max(track.sequence->known_size(), track.planned + 1);
  const int32_t missing = blocks_->PagesMissing(id, positions);
  while (!blocks_->CanAppend(id, missing)) {
    if (pages_coming_ > 0 && blocks_->pages_free() + pages_coming_ >= missing)
      return false;  // soon
    // The latest admitted that the plan being made does not name yet; `track` itself is one such.
    auto victim = running_.rbegin();
    while (tracks_.at(victim->second).last_plan == next_step_) ++victim;
    const SequenceId victim_id = victim->second;
    if (victim_id == id && victim != running_.rbegin()) return false;  // later ones are in the plan
    Preempt(tracks_.at(victim_id));
    if (victim_id == id) return false;
  }
  return true;
}

void Scheduler::PlanRows(Track& track, int32_t rows, std::vector<int32_t> drafts, StepPlan& plan,
                         PlannedStep& step, int64_t now_us) {
  Sequence& sequence = *track.sequence;
  const int32_t known = sequence.known_size();
  const int32_t end = track.planned + rows;
  SequenceStep out;
  out.id = sequence.id();
  out.start_position = track.planned;
  for (int32_t position = track.planned; position < end; ++position) {
    out.tokens.push_back(position < known ? sequence.TokenAt(position) : kTokenFromLastStep);
  }
  out.tokens.insert(out.tokens.end(), drafts.begin(), drafts.end());
  out.drafts = static_cast<int32_t>(drafts.size());
  const int32_t positions = std::max(known, end + out.drafts);
  out.new_pages = blocks_->Append(out.id, blocks_->PagesMissing(out.id, positions));
  const bool proof = end == known - 1 && sequence.generated() > 0 && IsPrefill(track);
  out.sample = proof || (end >= known && !NothingLeft(track));
  if (track.first) {
    out.first = true;
    out.params = sequence.request().params;
    out.prompt_tokens = sequence.prompt_size();
    track.first = false;
  }
  step.items.push_back({out.id, track.planned, rows, std::move(drafts), out.sample, proof});
  track.planned = end + out.drafts;
  if (out.sample && !proof) ++track.samples_pending;
  ++track.plans_in_flight;
  track.last_plan = step.step_id;
  if (sequence.times.first_planned == 0) sequence.times.first_planned = now_us;
  plan.sequences.push_back(std::move(out));
}

void Scheduler::PlanDecodes(StepPlan& plan, PlannedStep& step, int32_t& budget, int64_t now_us) {
  std::vector<SequenceId> ready;
  for (const auto& [admission, id] : running_) {
    if (CanDecode(tracks_.at(id))) ready.push_back(id);
  }
  // The one that waited longest first; equals in the order of admission.
  std::stable_sort(ready.begin(), ready.end(), [this](SequenceId a, SequenceId b) {
    return tracks_.at(a).last_plan < tracks_.at(b).last_plan;
  });
  int32_t left = std::min(budget, DecodesOfPlan(static_cast<int32_t>(ready.size())));
  const int32_t drafts_each =
      left == 0 ? 0 : std::min(limits_.speculation.drafts_max, budget - left) / left;
  for (const SequenceId id : ready) {
    if (left == 0) break;
    Track& track = tracks_.at(id);
    if (!track.running) continue;  // preempted for an older one just now
    if (!MakeRoom(track)) continue;
    std::vector<int32_t> drafts = DraftsFor(track, drafts_each);
    --left;
    budget -= 1 + static_cast<int32_t>(drafts.size());
    PlanRows(track, 1, std::move(drafts), plan, step, now_us);
  }
}

void Scheduler::PlanPrefills(StepPlan& plan, PlannedStep& step, int32_t& budget, int64_t now_us) {
  for (const auto& [admission, id] : running_) {
    if (budget == 0) return;
    Track& track = tracks_.at(id);
    if (!IsPrefill(track) || track.last_plan == step.step_id) continue;
    const int32_t known = track.sequence->known_size();
    const int32_t end = track.sequence->generated() == 0 ? known : known - 1;
    const int32_t rows = std::min(budget, end - track.planned);
    budget -= rows;
    PlanRows(track, rows, {}, plan, step, now_us);
  }
}

void Scheduler::AdmitWaiting(StepPlan& plan, PlannedStep& step, int32_t& budget, int64_t now_us) {
  while (budget > 0 && !waiting_.empty() && running() < limits_.sequences_max) {
    Track& track = tracks_.at(waiting_.begin()->second);
    if (track.plans_in_flight > 0) return;  // preempted, its last results are still to come
    const int32_t known = track.sequence->known_size();
    const int32_t needed = blocks_->PagesMissing(track.sequence->id(), known);
    // A page for each that runs, so that it is not preempted again at once.
    if (needed + running() > blocks_->pages_free()) return;
    if (!blocks_->CanAppend(track.sequence->id(), needed)) return;
    waiting_.erase(waiting_.begin());
    track.running = true;
    track.admission = next_admission_++;
    track.forced = track.sequence->generated();
    counters_.replay_tokens_forced += track.forced;
    running_.emplace(track.admission, track.sequence->id());
    const int32_t end = track.forced == 0 ? known : known - 1;
    const int32_t rows = std::min(budget, end);
    budget -= rows;
    PlanRows(track, rows, {}, plan, step, now_us);
  }
}

std::optional<StepPlan> Scheduler::Plan(int64_t now_us) {
  if (!started_ || in_flight() >= limits_.steps_in_flight_max) return std::nullopt;
  if (WaitsToDraft()) return std::nullopt;
  StepPlan plan;
  PlannedStep step;
  plan.step_id = step.step_id = next_step_;
  plan.epoch = epoch_;
  int32_t budget = limits_.step_tokens_max;
  PlanDecodes(plan, step, budget, now_us);
  budget = std::min(budget, PrefillRowsOfPlan());
  PlanPrefills(plan, step, budget, now_us);
  AdmitWaiting(plan, step, budget, now_us);
  if (plan.sequences.empty()) return std::nullopt;
  plan.released = std::move(released_);
  released_.clear();
  ++next_step_;
  in_flight_.push_back(std::move(step));
  return plan;
}

}  // namespace echelon
