#pragma once
// BatchLayout: a StepPlan as rows. Row t is one token of one sequence; the sequences' rows follow
// each other in the plan's order. A plan is data from a peer: everything in it is checked here,
// before any rank computes, and only then the worker's tables change. Pure values, one thread.

#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "common/step.h"
#include "kernels/backend.h"
#include "worker/kv_cache.h"

namespace echelon {

// What a plan may ask of this worker.
struct PlanLimits {
  int step_tokens_max = 512;  // rows
  int sequences_max = 64;     // known at once, after the plan's releases
  int pages = 0;              // of the KV caches of all sp ranks together
  int sp = 1;                 // sp rank r keeps pages [r, r + 1) * pages / sp
  int page_tokens = 16;
  int context_max = 0;  // positions of one sequence
  int vocab_size = 0;
};

// What a plan's sampling parameters may ask for. Prompt and step log-probabilities: the K best.
inline constexpr int kLogprobsMax = 128;

// Unknown or doubled sequences, pages or tokens out of range, positions that do not continue the
// sequence (or go back by more than its drafts), drafts that cannot be, a sampled token that no
// step sampled, parameters that are not numbers: an error that names the step and the sequence.
Status CheckPlan(const StepPlan& plan, const SequenceTable& table, const PlanLimits& limits);

// Releases and extends the sequences as a checked plan says.
void ApplyPlan(const StepPlan& plan, SequenceTable& table);

struct SequenceRows {
  SequenceId id = 0;
  int begin = 0, end = 0;  // rows
};

// Consecutive rows of a step, as views into its batch.
struct StepRows {
  std::span<const int32_t> ids;  // (T)
  BatchRows rows;                // of these rows; page tables may hold more sequences
};

struct BatchLayout {
  std::vector<int32_t> ids;         // (T) tokens; kTokenFromLastStep where the plan says so
  std::vector<int32_t> positions;   // (T)
  std::vector<int32_t> sequences;   // (T) index into page_begin
  std::vector<int32_t> page_begin;  // (S + 1)
  std::vector<int32_t> pages;
  std::vector<SequenceRows> steps;  // (S) in the plan's order

  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
  // Views into this object: all rows, or some.
  StepRows step_rows() const { return step_rows(0, rows()); }
  StepRows step_rows(int64_t begin, int64_t end) const;
};

// `table` after ApplyPlan. Only the pages that the rows can read are listed.
BatchLayout MakeBatch(const StepPlan& plan, const SequenceTable& table, int page_tokens);

// Appends rows that store and attend nothing until there are `rows` (Backend::Repeat).
void FillUp(BatchLayout& batch, int64_t rows);

// Rows [begin, end) as a batch of its own, of the sequences that have any of them.
BatchLayout CutBatch(const BatchLayout& batch, int64_t begin, int64_t end);

}  // namespace echelon
