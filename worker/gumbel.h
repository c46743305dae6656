#pragma once
// Drawing a token with the Gumbel-max trick: the token with the greatest logit / temperature +
// Gumbel noise is a draw from the softmax. The noise is keyed by (seed, position, token id), so
// that each rank draws over its own part of the vocabulary and the best of the ranks' winners is
// the draw: the same token from the same logits on any tp.

#include <cstdint>
#include <span>

namespace echelon {

struct GumbelRow {
  std::span<const float> logits;  // this rank's part, adjusted
  int64_t first_id = 0;           // token id of logits[0]
  float max = 0.0f;               // of the whole row
  double inverse_temperature = 1.0;
  uint32_t key_min = 0;     // OrderKey of the least logit that may be drawn
  double log_min = -1e300;  // (logit - max) / temperature must be at least this (min_p)
  uint64_t seed = 0;
  uint32_t position = 0;  // absolute, of the token that is drawn
};

struct GumbelDraw {
  double score = 0.0;
  int32_t id = -1;  // -1: nothing in this part may be drawn
};
// Greater score first, ties to the lower id.
bool Beats(const GumbelDraw& a, const GumbelDraw& b);

GumbelDraw DrawFrom(const GumbelRow& row);

}  // namespace echelon
