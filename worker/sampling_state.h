#pragma once
// SamplingState: what the sampler remembers of one sequence, and the changes it makes to the
// sequence's logits before a token is drawn. One thread; every rank of the last stage keeps the
// same.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/parallel_layout.h"
#include "common/step.h"

namespace echelon {

class SamplingState {
 public:
  SamplingState(const SamplingParams& params, int32_t prompt_tokens)
      : params_(params), prompt_tokens_(prompt_tokens) {}

  const SamplingParams& params() const { return params_; }
  int32_t prompt_tokens() const { return prompt_tokens_; }

  // A token went through the model. At positions below prompt_tokens it counts as prompt, from
  // there on as generated, also when a replay feeds it again: penalties survive a restart.
  void Observe(int32_t position, int32_t token);

  // Temperatures below this are greedy: 1 / temperature would leave what a float32 logit resolves.
  static constexpr float kGreedyBelow = 1e-5f;
  bool greedy() const { return params_.temperature < kGreedyBelow; }
  // In place: logit_bias, then the repetition penalty (over prompt and generated tokens), then
  // frequency and presence penalties (over generated tokens). `logits` are those of `vocab`.
  void Adjust(Range vocab, std::span<float> logits) const;

  // Logits (this rank's part) of the last prompt row run so far: which token follows is known only
  // when the next chunk comes. Prompt log-probabilities only.
  std::vector<float> held_logits;

 private:
  struct Count {
    bool in_prompt = false;
    int32_t generated = 0;
  };

  SamplingParams params_;
  int32_t prompt_tokens_;
  std::unordered_map<int32_t, Count> counts_;  // empty unless params_.penalised()
};

}  // namespace echelon
