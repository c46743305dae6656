#include "coordinator/speculation.h"

#include <algorithm>

namespace echelon {

namespace {

// A text without repetition is tried about every 32 tokens with one more row, which costs a
// fraction of a step: under 1 % of its time.
constexpr int32_t kPauseMax = 32;
// Far beyond any limit of a step; keeps the doubling from running over.
constexpr int32_t kLengthMax = 1 << 16;

}  // namespace

std::vector<int32_t> LookUpDrafts(std::span<const int32_t> tokens, const SpeculationLimits& limits,
                                  int32_t count) {
  const auto size = static_cast<int64_t>(tokens.size());
  int64_t best_end = 0;  // just behind the occurrence
  int64_t best = limits.ngram_min - 1;
  for (int64_t end = size - 1; end > best && best < limits.ngram_max; --end) {
    int64_t length = 0;
    while (length < limits.ngram_max && length < end &&
           tokens[end - 1 - length] == tokens[size - 1 - length]) {
      ++length;
    }
    if (length <= best) continue;  // equals: the later one stays
    best = length;
    best_end = end;
  }
  std::vector<int32_t> drafts;
  if (best_end == 0) return drafts;
  for (int32_t i = 0; i < count; ++i) {
    const int64_t at = best_end + i;
    drafts.push_back(at < size ? tokens[at] : drafts[at - size]);
  }
  return drafts;
}

void DraftPace::Learn(int32_t known, int32_t drafted, int32_t accepted) {
  if (accepted == 0) {
    length_ = 1;
    pause_ = std::clamp(2 * pause_, 2, kPauseMax);
    resume_at_ = known + 1 + pause_;
    return;
  }
  pause_ = 0;
  // Fewer than length_ may have been drafted for want of rows or pages.
  length_ = accepted < drafted ? accepted : std::min(std::max(length_, 2 * drafted), kLengthMax);
}

}  // namespace echelon
