#include "worker/sampling_state.h"

namespace echelon {

void SamplingState::Observe(int32_t position, int32_t token) {
  if (!params_.penalised()) return;
  Count& count = counts_[token];
  if (position < prompt_tokens_) {
    count.in_prompt = true;
  } else {
    ++count.generated;
  }
}

void SamplingState::Adjust(Range vocab, std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) {
    if (vocab.begin <= id && id < vocab.end) logits[id - vocab.begin] += bias;
  }
  for (const auto& [id, count] : counts_) {
    if (id < vocab.begin || id >= vocab.end) continue;
    float& logit = logits[id - vocab.begin];
    // Towards less likely, whatever the sign.
    logit = logit > 0.0f ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    logit -= params_.frequency_penalty * static_cast<float>(count.generated);
    if (count.generated > 0) logit -= params_.presence_penalty;
  }
}

}  // namespace echelon
