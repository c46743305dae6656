#pragma once
// Memory for keys and values: how many pages a rank can hold, and which pages belong to a sequence.
// Pages are handed out by the coordinator; the worker only keeps the tables. Pure values, one
// thread.

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/rank_part.h"
#include "common/result.h"
#include "common/step.h"
#include "kernels/backend.h"

namespace echelon {

struct KvSettings {
  int page_tokens = 16;
  KvType type = KvType::kF16;
  uint64_t memory_bytes = 0;  // for this rank
  std::string device;         // whose memory that is, for errors; empty: the host's
  uint64_t step_bytes = 0;    // of the device, kept for steps where memory_bytes is what was left
  int sequences_max = 64;     // no more pages than this many sequences can fill
  int context_max = 0;        // positions of one sequence
  int sp = 1;                 // ranks that share the pages of a sequence
  int ring_pages = 0;         // pages of one layer in one message of the ring
};

// The greatest cache within the settings, in pages of all of the rank's layers. An error says how
// many bytes one page needs where not even one sequence of one page fits.
Result<KvShape> SizeKvCache(const ModelConfig& model, const RankPart& part,
                            const KvSettings& settings);

// What the worker remembers of one sequence.
struct SequenceState {
  std::vector<int32_t> pages;  // position p is in pages[p / page_tokens]
  int32_t length = 0;          // positions run through the model so far
  int32_t drafts = 0;          // of those, at the end: guesses that the next step may take back
  bool sampled = false;        // the last step sampled the token at position `length`, for certain
  bool penalised = false;      // its tokens are counted: none can be taken back
};

using SequenceTable = std::unordered_map<SequenceId, SequenceState>;

}  // namespace echelon
