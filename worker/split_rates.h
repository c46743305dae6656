#pragma once
// SplitRates: how fast this tensor-parallel group computes and exchanges, as far as it decides
// whether a step is better run in two parts (token_split.h). Measured once, as the ranks start.

#include <array>

#include "common/rank_part.h"
#include "common/result.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/weights.h"

namespace echelon {

struct SplitRates {
  static constexpr std::array<int, 4> kRows = {1, 8, 32, 128};
  // Seconds of a sub-block without attention itself, at kRows rows: with weights that come from
  // memory, and with weights that were used just before, as a second part finds them.
  struct Block {
    std::array<double, kRows.size()> cold{}, warm{};
    // Straight lines between the points and beyond the last.
    static double At(const std::array<double, kRows.size()>& seconds, double rows);
  };
  Block attention, mlp;
  double position_s = 0.0;  // of one row seeing one position, in one layer
  // Of an all-reduce.
  double latency_s = 0.0;
  double byte_s = 0.0;
  double hidden = 0.0;  // share of it that goes on while the ranks compute, 0 to 1
};

// Multiply-adds of attention take about as long as so many of a product with weights: float32
// against integers, short loops, exponentials (kernels_bench: Profile).
inline constexpr double kAttentionMacCost = 3.0;

// Collective over `tp`; the same numbers on all of its ranks: the slowest rank's. Takes about as
// long as 1,500 rows of one layer (some 40 ms for a 135M model) and 15 exchanges of 128 KiB.
Result<SplitRates> MeasureSplitRates(const ModelConfig& model, const RankPart& part,
                                     const Weights& weights, Backend& backend, Communicator& tp);

}  // namespace echelon
