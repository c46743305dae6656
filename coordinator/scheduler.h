#pragma once
// Scheduler: policy only. Which sequences run, which tokens go into the next step, whose pages go
// when there are none left. Continuous batching: decodes first, then prefill chunks, under
// step_tokens_max rows a step; admission is first come, first served.
//
// Plans in flight. pp = 1: one plan of lookahead, in which a decode names the token that the step
// before it is still sampling (kTokenFromLastStep). pp > 1: pp plans over disjoint decodes fill the
// pipeline, with equal work as far as that goes, for a stage that gets less waits for the others:
// decodes are shared out over the plans that are free, and what is to be prefilled is cut into
// equal chunks, small enough that the last stage does not wait long for the first of them. What a
// plan ahead cannot know is settled when its result comes: tokens past a stop are discarded, and
// pages are freed after the last plan that names them.
//
// Speculation (speculation.h). A decode whose last token is known may carry drafts: guesses that
// the same step checks, so that it yields one token and those that were right. With pp = 1 that
// needs a plan less in flight: while a sequence that could be guessed for waits for its token,
// nothing is planned ahead, for all would run in two half-filled steps instead of one. A plan's
// drafts are shared out evenly, so that with more decodes than drafts everything is as without.
//
// When pages run out, the sequence admitted last gives up all of its pages and waits, in its old
// place in the queue, to be computed again from its token log (recompute preemption): the tokens
// emitted are fed, not sampled. The step before the last of them is sampled as well and compared
// with the log, bit for bit: the proof that the replay is exact.
//
// Never a deadlock: with nothing in flight every page that is not owned is free, the oldest
// sequence may take all others' pages, and admission refused what does not fit alone.
//
// Thread: the coordinator's. Sequences are owned by the caller and outlive their Remove().

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "common/result.h"
#include "common/step.h"
#include "coordinator/block_manager.h"
#include "coordinator/sequence.h"
#include "coordinator/speculation.h"

namespace echelon {

struct SchedulerLimits {
  int32_t sequences_max = 64;       // running at once
  int32_t step_tokens_max = 512;    // rows of a step
  int32_t steps_in_flight_max = 0;  // 0 = 2 for pp 1, else pp
  int32_t pp = 1;
  int32_t sp = 1;  // ranks that share the pages of a sequence
  SpeculationLimits speculation;
};

// What the workers have, from the group when it is ready.
struct SchedulerCapacity {
  int32_t pages = 0;  // of all sp ranks together
  int32_t page_tokens = 16;
  int32_t context_max = 0;  // positions of one sequence
  int32_t vocab_size = 0;
};

// One sequence's part of a committed step.
struct CommitItem {
  Sequence* sequence = nullptr;
  const SequenceResult* result = nullptr;
  bool sampled = false;  // result->sampled are the next tokens of the log, up to its end
  bool proof = false;    // result->sampled is log entry `log_index` again: compare
  int32_t log_index = 0;
  int32_t row_begin = 0;         // position of the chunk's first row, for prompt_top
  int32_t drafted = 0;           // result->sampled has up to so many more
  bool prompt_complete = false;  // the last prompt row was in this step
};

struct SchedulerCounters {
  uint64_t preemptions = 0;
  uint64_t replay_tokens_forced = 0;
  uint64_t tokens_drafted = 0;
  uint64_t drafts_accepted = 0;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerLimits limits);

  // The group is ready, in a new epoch: nothing is in flight, no page is used. Sequences that ran
  // wait again, in their order, and are replayed from their logs.
  void Start(uint64_t epoch, SchedulerCapacity capacity);
  // The group is lost: plans in flight will never come back.
  void Stop();
  bool started() const { return started_; }

  // Why the sequence can never run, or ok. Needs Start() once. Fills in no state.
  Status CheckFits(int32_t prompt_tokens, int32_t max_tokens) const;
  void Add(Sequence* sequence);
  // The sequence is finished (or to be forgotten): its pages go when no plan names them any more.
  void Remove(SequenceId id);

  // The next plan, or nothing when enough are in flight or nothing can be planned now.
  std::optional<StepPlan> Plan(int64_t now_us);
  // Results come in the order of the plans. An error means that the peer broke the contract; the
  // group cannot be trusted any more. `result` outlives the use of the items. The caller appends to
  // the log and calls Remove() for what finished before the next Plan().
  Result<std::vector<CommitItem>> Commit(const StepResult& result);

  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t waiting_tokens() const;  // prompt tokens of the sequences that wait
  bool IsRunning(SequenceId id) const;
  int32_t in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  int32_t pages_total() const { return blocks_->pages_total(); }
  int32_t pages_free() const { return blocks_->pages_free(); }
  int32_t pages_used(int32_t sp_rank) const { return blocks_->pages_used(sp_rank); }
  const SchedulerCapacity& capacity() const { return capacity_; }
  uint64_t PageHash(int32_t page) const { return blocks_->HashOf(page); }
  const SchedulerCounters& counters() const { return counters_; }
  // Sequences that were running when Stop() was called or are running now: the ones a loss touches.
  std::vector<SequenceId> StartedIds() const;

  void CheckInvariants() const;

 private:
  struct Track {
    Sequence* sequence = nullptr;  // null once removed
    uint64_t arrival = 0;          // order of Add: the place in the queue
    uint64_t admission = 0;        // order of admission: the latest is preempted first
    int32_t planned = 0;           // positions [0, planned) have been given to plans
    int32_t pages_hashed = 0;
    int32_t samples_pending = 0;  // planned samples for the log whose results are not back
    int32_t plans_in_flight = 0;  // plans that name this sequence
    uint64_t last_plan = 0;       // step id
    bool first = true;            // the next plan introduces it
    int32_t forced = 0;           // log entries known when it was (re-)admitted
    bool running = false;
    bool dropped = false;  // preempted or removed; pages go with the last plan in flight
    DraftPace pace;
  };
  struct PlannedItem {
    SequenceId id = 0;
    int32_t row_begin = 0;
    int32_t rows = 0;  // those of the drafts not counted
    std::vector<int32_t> drafts;
    bool sample = false;
    bool proof = false;
  };
  struct PlannedStep {
    uint64_t step_id = 0;
    std::vector<PlannedItem> items;
  };

  bool CanDecode(const Track& track) const;
  bool IsPrefill(const Track& track) const;
  bool NothingLeft(const Track& track) const;
  void PlanDecodes(StepPlan& plan, PlannedStep& step, int32_t& budget, int64_t now_us);
  void PlanPrefills(StepPlan& plan, PlannedStep& step, int32_t& budget, int64_t now_us);
  void AdmitWaiting(StepPlan& plan, PlannedStep& step, int32_t& budget, int64_t now_us);
  // `drafts` stand behind the rows, and only where one row is a decode of a known token.
  void PlanRows(Track& track, int32_t rows, std::vector<int32_t> drafts, StepPlan& plan,
                PlannedStep& step, int64_t now_us);
  // scheduler_drafts.cc. Guesses for the track's next decode, `most` of them.
  std::vector<int32_t> Guess(const Track& track, int32_t most) const;
  // The same within the pages at hand.
  std::vector<int32_t> DraftsFor(const Track& track, int32_t most) const;
  bool WaitsToDraft() const;
  void CommitDrafts(const PlannedItem& planned, const SequenceResult& result, Track& track);
  // Makes room for the track's next row, preempting later admissions. False: not in this plan.
  bool MakeRoom(Track& track);
  void Preempt(Track& track);
  void Drop(Track& track);
  void ReleasePages(SequenceId id);
  void HashFullPages(Track& track, int32_t end);
  // Of `ready` decodes, those that go into the plan being made.
  int32_t DecodesOfPlan(int32_t ready) const;
  // Rows of prompts that go into the plan being made, at most.
  int32_t PrefillRowsOfPlan();
  int64_t PrefillBacklog(int64_t most) const;
  Status CheckResult(const StepResult& result) const;
  Status CheckSampled(uint64_t step_id, const PlannedItem& planned,
                      const SequenceResult& got) const;
  CommitItem ItemOf(const PlannedItem& planned, const SequenceResult& result, Track& track);

  SchedulerLimits limits_;
  SchedulerCapacity capacity_;
  std::unique_ptr<BlockManager> blocks_;
  SchedulerCounters counters_;
  bool started_ = false;
  uint64_t epoch_ = 0;
  uint64_t next_step_ = 1;
  uint64_t next_arrival_ = 1;
  uint64_t next_admission_ = 1;
  std::map<SequenceId, Track> tracks_;
  std::map<uint64_t, SequenceId> waiting_;  // by arrival
  std::map<uint64_t, SequenceId> running_;  // by admission
  std::deque<PlannedStep> in_flight_;
  std::vector<SequenceId> released_;  // for the next plan
  int32_t pages_coming_ = 0;          // of dropped sequences still named by plans in flight
  int32_t prefill_chunk_ = 0;         // rows; pp > 1: kept until nothing is left to prefill
};

}  // namespace echelon
