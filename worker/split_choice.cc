#include "worker/split_choice.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "common/step_rules.h"

namespace echelon {

namespace {

// A trial costs what the worse way is slower: one of 64 steps, at twice the time, 1.6 %. Where a
// rehearsal left it open, or a comparison speaks against the choice, the next ones come soon. Even
// a clear rehearsal is tried soon: it may be wrong.
constexpr int kGapMin = 2, kGapFirst = 8, kGapMax = 64;
// A rehearsal errs by so much. It counts as a comparison where that leaves it open, else as three
// of the seven that are kept.
constexpr double kRehearsalError = 0.15;
constexpr size_t kOpen = 1, kClear = 3, kGainsMax = 7;
// The step before the trial, the trial, and the step behind it, whose mean allows for what grows or
// drifts evenly; their costs may differ from that by 3 %, a third of what comparisons vary by.
constexpr size_t kCompared = 3;
constexpr double kCostDifference = 0.03;

}  // namespace

SplitChoice::SplitChoice(const std::vector<SplitTimes>& rehearsed) {
  for (size_t i = 0; i < std::size(kSplitRows); ++i) {
    const double gain =
        rehearsed.empty() ? 0.0 : rehearsed[std::min(i, rehearsed.size() - 1)].gain();
    Class& one = classes_.emplace_back();
    const bool open = std::abs(gain - kSplitGainMin) < kRehearsalError;
    one.gains.assign(open ? kOpen : kClear, gain);
    one.gap = open ? kGapMin : kGapFirst;
    Choose(one);
  }
}

// The nearest of kSplitRows, by ratio.
SplitChoice::Class& SplitChoice::Of(int64_t rows) {
  size_t i = 0;
  while (i + 1 < classes_.size() && rows * rows >= int64_t{kSplitRows[i]} * kSplitRows[i + 1]) ++i;
  return classes_[i];
}

// Of an even number the lower middle: whole where they do not agree.
void SplitChoice::Choose(Class& one) {
  std::vector<double> gains(one.gains.begin(), one.gains.end());
  const auto middle = gains.begin() + static_cast<ptrdiff_t>((gains.size() - 1) / 2);
  std::nth_element(gains.begin(), middle, gains.end());
  one.parts = *middle >= kSplitGainMin;
}

bool SplitChoice::Begin(int64_t rows, double cost) {
  Class& one = Of(rows);
  at_hand_ = &one;
  rows_ = static_cast<int>(rows);
  const bool trial = ++one.steps > one.gap;
  if (trial) one.steps = 0;
  one.latest.push_back({one.parts != trial, cost, 0.0});
  if (one.latest.size() > kCompared) one.latest.pop_front();
  return one.latest.back().parts;
}

std::optional<SplitTimes> SplitChoice::Took(double seconds) {
  const std::deque<Step>& steps = at_hand_->latest;
  at_hand_->latest.back().seconds = seconds;
  if (at_hand_->steps != 1 || steps.size() < kCompared) return std::nullopt;
  const Step &before = steps[0], &trial = steps[1], &behind = steps[2];
  const double cost = (before.cost + behind.cost) / 2;
  if (before.parts != behind.parts || trial.parts == before.parts ||
      std::abs(trial.cost - cost) > kCostDifference * cost) {
    return std::nullopt;
  }
  const double usual_s = (before.seconds + behind.seconds) / 2;
  return trial.parts ? SplitTimes{rows_, usual_s, trial.seconds}
                     : SplitTimes{rows_, trial.seconds, usual_s};
}

void SplitChoice::Learn(const SplitTimes& compared) {
  if (compared.whole_s <= 0.0) return;  // on a clock that stands still
  Class& one = Of(compared.rows);
  const bool agrees = (compared.gain() >= kSplitGainMin) == one.parts;
  one.gap = agrees ? std::min(2 * one.gap, kGapMax) : kGapMin;
  one.gains.push_back(compared.gain());
  if (one.gains.size() > kGainsMax) one.gains.pop_front();
  Choose(one);
}

}  // namespace echelon
