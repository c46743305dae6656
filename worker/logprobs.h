#pragma once
// Log-probabilities of the model itself, before penalties and temperature, over a vocabulary that
// is spread over ranks. The sum behind the log-sum-exp is taken in integer masses (exact_math.h):
// any tp gives the same bits from the same logits. Error: each mass is rounded to 2^-40 of the
// greatest, so the sum is off by at most vocabulary * 2^-40 of it, 2.4e-7 for 262,144 tokens.

#include <cstdint>
#include <span>
#include <vector>

#include "common/parallel_layout.h"
#include "common/step.h"
#include "worker/vocab_exchange.h"

namespace echelon {

struct LogprobRow {
  std::span<const float> logits;  // this rank's part
  int best = 0;                   // K: how many of the most likely
  int32_t known = -1;             // a token whose log-probability is wanted anyway, or -1
};

struct Logprobs {
  std::vector<TokenLogprob> best;  // descending, ties to the lower id; at most K
  float max = 0.0f;                // greatest logit
  double log_sum = 0.0;            // ln(sum of exp(logit - max))
  float known_logit = 0.0f;        // of `known`
  void SetMass(uint64_t mass);     // log_sum, of the sum of MassOf(logit - max)
  float Of(float logit) const {
    return static_cast<float>(static_cast<double>(logit) - max - log_sum);
  }
};

// Collective over the exchange's ranks, for all rows at once (two exchanges).
std::vector<Logprobs> FindLogprobs(std::span<const LogprobRow> rows, Range vocab,
                                   VocabExchange& exchange);

// The K best, and the chosen token behind them where it is not among them.
std::vector<TokenLogprob> WithChosen(const Logprobs& row, int32_t chosen, float chosen_logit);

}  // namespace echelon
