#pragma once
// SamplingState: what the sampler remembers of one sequence, and the changes it makes to the
// sequence's logits before a token is drawn. One thread; every rank of the last stage keeps the
// same.

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/parallel_layout.h"
#include "common/step.h"
#include "kernels/logit_change.h"

namespace echelon {

class SamplingState {
 public:
  SamplingState(const SamplingParams& params, int32_t prompt_tokens);

  const SamplingParams& params() const { return params_; }
  int32_t prompt_tokens() const { return prompt_tokens_; }

  // A token went through the model. At positions below prompt_tokens it counts as prompt, from
  // there on as generated, also when a replay feeds it again: penalties survive a restart. A
  // DrawnId stands for a generated token until SetDrawn tells which it is, before the next is
  // observed.
  void Observe(int32_t position, int32_t token);
  void SetDrawn(int32_t token);

  // Temperatures below this are greedy: 1 / temperature would leave what a float32 logit resolves.
  static constexpr float kGreedyBelow = 1e-5f;
  bool greedy() const { return params_.temperature < kGreedyBelow; }
  // In place: logit_bias, then the repetition penalty (over prompt and generated tokens), then
  // frequency and presence penalties (over generated tokens). `logits` are those of `vocab`.
  void Adjust(Range vocab, std::span<float> logits) const;
  // The same as a list for a backend (DrawRow::changes_begin): what Adjust changes, behind which
  // stands the token that is not known yet.
  void AppendChanges(std::vector<LogitChange>& to) const;
  size_t changes() const { return changes_.size() + (pending_ ? 1 : 0); }
  Penalties penalties() const;

  // Logits (this rank's part) of the last prompt row run so far: which token follows is known only
  // when the next chunk comes. Prompt log-probabilities only.
  std::vector<float> held_logits;

 private:
  LogitChange& ChangeOf(int32_t token);

  SamplingParams params_;
  int32_t prompt_tokens_;
  std::vector<LogitChange> changes_;               // tokens with a bias, and counted ones where
                                                   // params_.penalised()
  std::unordered_map<int32_t, size_t> change_of_;  // each token's place in changes_
  std::optional<int32_t> pending_;                 // observed: a DrawnId
};

}  // namespace echelon
