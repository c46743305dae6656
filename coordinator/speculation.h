#pragma once
// Speculation by prompt lookup: a text that repeats itself (code being edited, quotes, tables) is
// guessed from what already stands in it. A wrong guess costs rows of a step and never changes a
// token: the worker draws every position with its own random number and keeps guesses only as far
// as they are what was drawn. Pure values; the coordinator's thread.
//
// Source of the idea: prompt lookup decoding (Saxena 2023); the draws make it exact here at any
// temperature.

#include <cstdint>
#include <span>
#include <vector>

namespace echelon {

struct SpeculationLimits {
  int32_t drafts_max = 0;  // guessed tokens of one step, all its sequences together
  int32_t ngram_max = 4;   // tokens at the end that must have stood there before: as many as this,
  int32_t ngram_min = 2;   // or fewer, down to this
};

// What followed the last occurrence of the longest n-gram that ends `tokens` and stands earlier in
// them; `count` tokens, the guess itself being read on where the text ends (so that "abcabc" goes
// on as long as is asked). Empty where no n-gram recurs. Reads `tokens` once, backwards.
std::vector<int32_t> LookUpDrafts(std::span<const int32_t> tokens, const SpeculationLimits& limits,
                                  int32_t count);

// How much to guess for one sequence, learnt from how its guesses fared: as many again as were
// right, doubled when all were; after a miss one, and none for a while, longer with each miss.
class DraftPace {
 public:
  // Tokens to guess at most when `known` tokens are known.
  int32_t DraftsAt(int32_t known) const { return known >= resume_at_ ? length_ : 0; }
  // `known`: tokens known before the guess. accepted <= drafted, drafted > 0.
  void Learn(int32_t known, int32_t drafted, int32_t accepted);

 private:
  int32_t length_ = 2;  // a first guess worth having: a step of three rows costs about half more
  int32_t pause_ = 0;   // tokens
  int32_t resume_at_ = 0;
};

}  // namespace echelon
