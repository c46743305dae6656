#pragma once
// TokenSplit: whether a step is computed in two parts, whose all-reduces travel while the other
// part computes, and at which row it is cut. A pure function of the step's rows and of times that
// all ranks of the group agreed on, so that they decide alike without a message. One thread.

#include <cstdint>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "worker/batch_layout.h"

namespace echelon {

enum class TokenSplitMode : uint8_t {
  kAuto,  // where it was measured to be faster
  kOn,    // every step of two rows or more
  kOff,
};

// Seconds a layer with so many rows, in one part and in two.
struct SplitTimes {
  int rows = 0;
  double whole_s = 0.0, parts_s = 0.0;
  double gain() const { return 1.0 - parts_s / whole_s; }
};

// Multiply-adds of attention take about as long as so many of a product with weights: float32
// against integers, short loops, exponentials (kernels_bench: Profile).
inline constexpr double kAttentionMacCost = 3.0;

class TokenSplit {
 public:
  // `times`: read under kAuto alone, ascending rows.
  TokenSplit(const ModelConfig& model, TokenSplitMode mode, std::vector<SplitTimes> times);

  // The row where the second part begins; 0: the step is not split. The parts cost about the same,
  // attention counted; a sequence may be cut. All layers of the model count, not those of a stage:
  // which rows an sp rank computes depends on the cut (SequencePlan), and a rank of the next stage
  // receives those rows.
  int64_t CutOf(const BatchLayout& batch) const;
  // What was measured; "" unless kAuto.
  std::string Describe() const;

 private:
  int64_t EvenCut(const BatchLayout& batch) const;
  double GainOf(int64_t rows) const;

  const TokenSplitMode mode_;
  const std::vector<SplitTimes> times_;
  std::vector<int> windows_;    // of the model's layers
  double row_macs_ = 0.0;       // of a row in all layers
  double position_macs_ = 0.0;  // of a row and a position it sees in a layer, as products count
};

}  // namespace echelon
