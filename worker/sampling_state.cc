#include "worker/sampling_state.h"

#include <algorithm>
#include <utility>

namespace echelon {

SamplingState::SamplingState(const SamplingParams& params, int32_t prompt_tokens)
    : params_(params), prompt_tokens_(prompt_tokens) {
  for (const auto& [id, bias] : params_.logit_bias) ChangeOf(id).bias += bias;
}

LogitChange& SamplingState::ChangeOf(int32_t token) {
  const auto [at, added] = change_of_.try_emplace(token, changes_.size());
  if (added) changes_.push_back({token});
  return changes_[at->second];
}

void SamplingState::Observe(int32_t position, int32_t token) {
  if (!params_.penalised()) return;
  if (token < 0) {
    pending_ = token;
    return;
  }
  LogitChange& change = ChangeOf(token);
  change.generated = std::max(change.generated, 0);
  if (position >= prompt_tokens_) ++change.generated;
}

void SamplingState::SetDrawn(int32_t token) {
  if (std::exchange(pending_, {})) Observe(prompt_tokens_, token);
}

void SamplingState::Adjust(Range vocab, std::span<float> logits) const {
  const Penalties by = penalties();
  for (const LogitChange& change : changes_) {
    if (change.id < vocab.begin || change.id >= vocab.end) continue;
    float& logit = logits[change.id - vocab.begin];
    logit = Changed(logit, change, by);
  }
}

void SamplingState::AppendChanges(std::vector<LogitChange>& to) const {
  to.insert(to.end(), changes_.begin(), changes_.end());
  if (pending_) to.push_back({*pending_, 1});
}

Penalties SamplingState::penalties() const {
  return {params_.repetition_penalty, params_.frequency_penalty, params_.presence_penalty};
}

}  // namespace echelon
