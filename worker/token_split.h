#pragma once
// TokenSplit: whether a step is computed in two parts, whose all-reduces travel while the other
// part computes, and at which row it is cut. A pure function of the step's rows and of numbers that
// all ranks of the group agreed on, so that they decide alike without a message. One thread.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/block_schedule.h"
#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/rank_part.h"
#include "worker/batch_layout.h"
#include "worker/split_rates.h"

namespace echelon {

enum class TokenSplitMode : uint8_t {
  kAuto,  // where the rates say that it is faster
  kOn,    // every step of two rows or more
  kOff,
};

class TokenSplit {
 public:
  // `rates`: read under kAuto alone. The model outlives the object.
  TokenSplit(const ModelConfig& model, const RankPart& part, TokenSplitMode mode,
             const SplitRates& rates);

  // The row where the second part begins; 0: the step is not split. The parts cost about the same,
  // attention counted; a sequence may be cut.
  int64_t CutOf(const BatchLayout& batch) const;
  // What was measured and from how many rows of a prompt on a step is split; "" unless kAuto.
  std::string Describe() const;

 private:
  struct Load {
    double rows = 0.0;
    std::vector<double> seen;  // positions that the rows see, all together, by windows_
  };
  int64_t EvenCut(const BatchLayout& batch) const;
  Load LoadOf(const BatchLayout& batch, Range rows) const;
  double Seconds(std::span<const Load> parts) const;
  bool Pays(const BatchLayout& batch, int64_t cut) const;
  size_t WindowOf(const SubBlockStep& step) const;

  const ModelConfig& model_;
  const TokenSplitMode mode_;
  const SplitRates rates_;
  std::vector<SubBlockStep> steps_;              // of this stage
  std::vector<int> windows_;                     // of its layers, each once
  double row_macs_ = 0.0, position_macs_ = 0.0;  // of a layer of the whole model, as products count
};

}  // namespace echelon
