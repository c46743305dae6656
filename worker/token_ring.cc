#include "worker/token_ring.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

void TokenRing::Forget(const std::vector<SequenceId>& released) {
  for (const SequenceId id : released) {
    tokens_.erase(id);
    for (auto& message : awaited_) {
      std::replace(message.begin(), message.end(), std::optional(id), std::optional<SequenceId>());
    }
  }
}

void TokenRing::Expect(const StepPlan& plan) {
  Forget(plan.released);
  if (stages_.size() == 1) return;
  std::vector<std::optional<SequenceId>> message;
  for (const SequenceStep& step : plan.sequences) {
    if (step.sample) message.emplace_back(step.id);
  }
  if (!message.empty()) awaited_.push_back(std::move(message));
  // Tokens nobody asked for: more messages than stages cannot be on their way for long.
  while (awaited_.size() > 2 * static_cast<size_t>(stages_.size())) ReceiveOldest();
}

void TokenRing::Deliver(const StepPlan& plan, const std::vector<int32_t>& tokens) {
  size_t at = 0;
  for (const SequenceStep& step : plan.sequences) {
    if (step.sample) tokens_[step.id] = tokens[at++];
  }
  CHECK(at == tokens.size());
  if (stages_.size() == 1 || tokens.empty()) return;
  if (sent_) stages_.Wait(*sent_);
  outgoing_ = tokens;
  sent_ = stages_.Send(outgoing_.data(), outgoing_.size() * sizeof(int32_t), 0);
}

int32_t TokenRing::TokenOf(SequenceId id) {
  const auto awaits = [&](const auto& message) {
    return std::find(message.begin(), message.end(), std::optional(id)) != message.end();
  };
  // The newest message that names the sequence decides; all before it come first.
  const auto newest = std::find_if(awaited_.rbegin(), awaited_.rend(), awaits);
  for (auto left = awaited_.rend() - newest; left > 0; --left) ReceiveOldest();
  const auto it = tokens_.find(id);
  CHECK_MSG(it != tokens_.end(), "the plan was checked: a token was drawn");
  return it->second;
}

void TokenRing::ReceiveOldest() {
  const auto message = std::move(awaited_.front());
  awaited_.pop_front();
  std::vector<int32_t> tokens(message.size());
  stages_.Wait(stages_.Recv(tokens.data(), tokens.size() * sizeof(int32_t), stages_.size() - 1));
  for (size_t i = 0; i < message.size(); ++i) {
    if (message[i]) tokens_[*message[i]] = tokens[i];
  }
}

}  // namespace echelon
