// The second half of Scheduler: results come back.

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "common/strings.h"
#include "coordinator/scheduler.h"

namespace echelon {

namespace {

constexpr int32_t kRanksMax = 1 << 16;

// Prompt tokens at [begin, begin + rows) but the prompt's first: each has a log-probability.
int32_t ScoredTokens(int32_t begin, int32_t rows, int32_t prompt_tokens) {
  return std::max(0, std::min(begin + rows, prompt_tokens) - std::max(begin, 1));
}

// One page's content, continued from the page before (0 for the first).
uint64_t HashPage(uint64_t before, const Sequence& sequence, int32_t begin, int32_t end) {
  uint64_t hash = before ^ 0x9E3779B97F4A7C15ULL;
  for (int32_t position = begin; position < end; ++position) {
    hash = (hash ^ static_cast<uint32_t>(sequence.TokenAt(position))) * 0xFF51AFD7ED558CCDULL;
    hash ^= hash >> 32;
  }
  return hash | 1;  // never 0, which says "not full"
}

}  // namespace

Status Scheduler::CheckSampled(uint64_t step_id, const PlannedItem& planned,
                               const SequenceResult& got) const {
  const size_t least = planned.sample ? 1 : 0;
  const size_t most = least + planned.drafts.size();
  if (got.sampled.size() < least || got.sampled.size() > most) {
    return InternalError(StrCat("step ", step_id, " sampled ", got.sampled.size(),
                                " tokens of a sequence that asked for ", least, " to ", most));
  }
  for (size_t i = 0; i < got.sampled.size(); ++i) {
    const int32_t token = got.sampled[i].token;
    if (token < 0 || token >= capacity_.vocab_size) {
      return InternalError(StrCat("step ", step_id, " sampled token ", token,
                                  "; the vocabulary has ", capacity_.vocab_size));
    }
    if (i + 1 < got.sampled.size() && token != planned.drafts[i]) {
      return InternalError(StrCat("step ", step_id, " went on behind draft ", planned.drafts[i],
                                  " although it sampled ", token));
    }
  }
  return Status();
}

Status Scheduler::CheckResult(const StepResult& result) const {
  if (in_flight_.empty() || in_flight_.front().step_id != result.step_id ||
      result.epoch != epoch_) {
    return InternalError(StrCat("a result for step ", result.step_id, " of epoch ", result.epoch,
                                " came that was not the next one expected"));
  }
  const std::vector<PlannedItem>& items = in_flight_.front().items;
  if (items.size() != result.sequences.size()) {
    return InternalError(StrCat("the result of step ", result.step_id, " has ",
                                result.sequences.size(), " sequences; the plan had ",
                                items.size()));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    const SequenceResult& got = result.sequences[i];
    if (got.id != items[i].id) {
      return InternalError(
          StrCat("the result of step ", result.step_id, " names other sequences than its plan"));
    }
    RETURN_IF_ERROR(CheckSampled(result.step_id, items[i], got));
    const Sequence* sequence = tracks_.at(items[i].id).sequence;
    if (sequence == nullptr) continue;
    const int32_t rows =
        sequence->request().params.prompt_logprobs < 0
            ? 0
            : ScoredTokens(items[i].row_begin, items[i].rows, sequence->prompt_size());
    if (static_cast<int32_t>(got.prompt_top.size()) != rows) {
      return InternalError(StrCat("step ", result.step_id, " brought ", got.prompt_top.size(),
                                  " prompt_logprobs entries; ", rows, " were asked for"));
    }
  }
  for (const RankTiming& timing : result.timings) {
    if (timing.rank < 0 || timing.rank >= kRanksMax) {
      return InternalError(StrCat("timings of rank ", timing.rank));
    }
  }
  return Status();
}

// Of the pages below position `end` whose tokens are in the log: a draft that was kept is appended
// after this, and its page has its turn with the next result.
void Scheduler::HashFullPages(Track& track, int32_t end) {
  const SequenceId id = track.sequence->id();
  const auto* table = blocks_->TableOf(id);
  const int32_t page_tokens = blocks_->page_tokens();
  const int32_t certain = std::min(end, track.sequence->known_size());
  for (; (track.pages_hashed + 1) * page_tokens <= certain; ++track.pages_hashed) {
    const int32_t page = track.pages_hashed;
    const uint64_t before = page == 0 ? 0 : blocks_->HashOf((*table)[page - 1]);
    blocks_->SetHash(
        id, page, HashPage(before, *track.sequence, page * page_tokens, (page + 1) * page_tokens));
  }
}

CommitItem Scheduler::ItemOf(const PlannedItem& planned, const SequenceResult& result,
                             Track& track) {
  CommitItem item;
  item.sequence = track.sequence;
  item.result = &result;
  item.sampled = planned.sample && !planned.proof;
  item.proof = planned.proof;
  item.row_begin = planned.row_begin;
  item.drafted = static_cast<int32_t>(planned.drafts.size());
  const int32_t prompt = track.sequence->prompt_size();
  // A proof row at position p is compared with the token at p + 1.
  item.log_index = planned.row_begin + planned.rows - prompt;
  item.prompt_complete = planned.row_begin < prompt && planned.row_begin + planned.rows >= prompt;
  return item;
}

Result<std::vector<CommitItem>> Scheduler::Commit(const StepResult& result) {
  RETURN_IF_ERROR(CheckResult(result));
  const PlannedStep step = std::move(in_flight_.front());
  in_flight_.pop_front();
  std::vector<CommitItem> items;
  for (size_t i = 0; i < step.items.size(); ++i) {
    const PlannedItem& planned = step.items[i];
    const auto found = tracks_.find(planned.id);
    Track& track = found->second;
    if (planned.sample && !planned.proof) --track.samples_pending;
    if (track.sequence != nullptr) {
      CommitDrafts(planned, result.sequences[i], track);
      if (!track.dropped) HashFullPages(track, planned.row_begin + planned.rows);
      items.push_back(ItemOf(planned, result.sequences[i], track));
    }
    if (--track.plans_in_flight > 0) continue;
    if (track.dropped) {
      track.dropped = false;
      ReleasePages(planned.id);
    }
    if (track.sequence == nullptr) tracks_.erase(found);
  }
  return items;
}

void Scheduler::ReleasePages(SequenceId id) {
  const auto* table = blocks_->TableOf(id);
  if (table == nullptr) return;
  pages_coming_ -= static_cast<int32_t>(table->size());
  blocks_->Free(id);
}

void Scheduler::CheckInvariants() const {
  blocks_->CheckInvariants();
  std::map<SequenceId, int32_t> named;
  for (const PlannedStep& step : in_flight_) {
    for (const PlannedItem& item : step.items) ++named[item.id];
  }
  int32_t coming = 0;
  int32_t owned = 0;
  for (const auto& [id, track] : tracks_) {
    CHECK(track.plans_in_flight == (named.count(id) ? named.at(id) : 0));
    CHECK(track.sequence != nullptr || track.plans_in_flight > 0);
    const auto* table = blocks_->TableOf(id);
    const int32_t pages = table == nullptr ? 0 : static_cast<int32_t>(table->size());
    owned += pages;
    if (track.dropped) coming += pages;
    if (pages > 0) CHECK(track.running || track.dropped);
    CHECK(track.running == (running_.count(track.admission) > 0));
    const bool waits = waiting_.count(track.arrival) > 0;
    if (track.sequence != nullptr) CHECK(waits != track.running);
    if (track.sequence == nullptr) CHECK(!waits && !track.running);
  }
  CHECK(coming == pages_coming_);
  CHECK(owned + blocks_->pages_free() == blocks_->pages_total());
}

}  // namespace echelon
