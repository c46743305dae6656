#pragma once
// SplitChoice: whether steps are computed whole or in two parts, by what each way takes. First by a
// rehearsal (split_rehearsal.h), which sees an idle service and a few layers; then by the steps
// themselves: now and then one is computed the other way, and its time compared with those of the
// steps before and behind it. Which way a step goes changes no bit of it.
//
// Pure of clocks and messages: the ranks of a group that tell it the same steps and comparisons
// choose alike. One thread.

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace echelon {

// Seconds of so many rows, in one part and in two.
struct SplitTimes {
  int rows = 0;
  double whole_s = 0.0, parts_s = 0.0;
  double gain() const { return 1.0 - parts_s / whole_s; }
  bool operator==(const SplitTimes&) const = default;
};

// Numbers of rows that are rehearsed, and around which steps choose alike.
inline constexpr int kSplitRows[] = {2, 8, 32, 128, 512};

class SplitChoice {
 public:
  // `rehearsed`: of the first of kSplitRows; greater ones are as the last. Empty: nothing gains.
  explicit SplitChoice(const std::vector<SplitTimes>& rehearsed);

  // A step of so many rows begins: whether it comes in two parts. `cost`: of any unit, as its time.
  bool Begin(int64_t rows, double cost);
  // It has taken so long. What this rank saw of a comparison that is complete now: the ranks agree
  // on its greatest times and Learn() them before the next step.
  std::optional<SplitTimes> Took(double seconds);
  void Learn(const SplitTimes& compared);

 private:
  struct Step {
    bool parts = false;
    double cost = 0.0, seconds = 0.0;
  };
  // Steps of about so many rows.
  struct Class {
    std::deque<double> gains;  // the latest, the rehearsal's among them
    bool parts = false;        // what the median of them says
    int gap = 0;               // steps from a trial to the next
    int steps = 0;             // since the last trial
    std::deque<Step> latest;   // as many as a comparison takes
  };
  Class& Of(int64_t rows);
  static void Choose(Class& one);

  std::vector<Class> classes_;  // of kSplitRows
  Class* at_hand_ = nullptr;    // of the step that has begun
  int rows_ = 0;
};

}  // namespace echelon
