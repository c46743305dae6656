#pragma once
// Thresholds for top_k and top_p over a vocabulary that is spread over ranks: a radix search over
// order-preserving keys of the logits, eight bits at a time. Each of its four rounds exchanges one
// histogram of 256 sums (2 KiB) a row and rank, whatever the vocabulary, instead of logits, and the
// threshold found is exact: the same on any tp, for any order of summation.

#include <cstdint>
#include <span>
#include <vector>

#include "worker/logit_scan.h"
#include "worker/vocab_exchange.h"

namespace echelon {

// One row of the search. What is summed for a logit: 1 (top_k), or its mass (top_p).
struct ThresholdRow {
  std::span<const float> logits;  // this rank's part
  bool by_mass = false;
  double max = 0.0;  // of the whole row; by_mass only
  double inverse_temperature = 1.0;
  uint32_t key_min = 0;  // logits with lower keys do not count
  // The sum to reach from the top: `count`, or by_mass `share` of the total (at least 1).
  uint64_t count = 0;
  float share = 1.0f;
};

// For each row the greatest key such that the logits with that key or a higher one reach the sum; 0
// where all together do not. Ties at the threshold so all stay in.
std::vector<uint32_t> FindThresholds(std::span<const ThresholdRow> rows, VocabExchange& exchange);

}  // namespace echelon
