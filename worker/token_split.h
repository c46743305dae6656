#pragma once
// TokenSplit: whether a step is computed in two parts, whose all-reduces travel while the other
// part computes, and at which row it is cut: by the steps' rows and times that all ranks of the
// group agreed on. One thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "worker/batch_layout.h"
#include "worker/split_choice.h"

namespace echelon {

enum class TokenSplitMode : uint8_t {
  kAuto,  // where it was measured to be faster
  kOn,    // every step of two rows or more
  kOff,
};

// Multiply-adds of attention take about as long as so many of a product with weights: float32
// against integers, short loops, exponentials (kernels_bench: Profile).
inline constexpr double kAttentionMacCost = 3.0;

class TokenSplit {
 public:
  // `times`: of a layer, of the first of kSplitRows; read under kAuto alone.
  TokenSplit(const ModelConfig& model, TokenSplitMode mode, std::vector<SplitTimes> times);

  // A step begins: the row where the second part begins; 0: it is not split. The parts cost about
  // the same, attention counted; a sequence may be cut. All layers of the model count, not those of
  // a stage: which rows an sp rank computes depends on the cut (SequencePlan), and a rank of the
  // next stage receives those rows.
  int64_t Begin(const BatchLayout& batch);
  // The step's time counts: Took wants to know it.
  bool choosing() const { return choosing_; }
  // It has taken so long: SplitChoice, under kAuto.
  std::optional<SplitTimes> Took(double seconds);
  void Learn(const SplitTimes& compared) { choice_.Learn(compared); }
  // What was measured; "" unless kAuto.
  std::string Describe() const;

 private:
  std::vector<double> CostUntil(const BatchLayout& batch) const;

  const TokenSplitMode mode_;
  const std::vector<SplitTimes> times_;
  SplitChoice choice_;
  bool choosing_ = false;       // the step at hand was choice_'s
  std::vector<int> windows_;    // of the model's layers
  double row_macs_ = 0.0;       // of a row in all layers
  double position_macs_ = 0.0;  // of a row and a position it sees in a layer, as products count
};

}  // namespace echelon
