#pragma once
// What a sequence's biases and penalties make of a logit before a token is drawn: the same bits on
// every backend. Pure functions, any thread; constexpr, so that kernels of a device may call them.

#include <cstdint>

namespace echelon {

struct Penalties {
  float repetition = 1.0f;  // of tokens of prompt and text
  float frequency = 0.0f;   // of tokens of the text, for each time
  float presence = 0.0f;    // of tokens of the text
};

// One token of a list in which each token stands once; the logits of all others stay as they are.
struct LogitChange {
  int32_t id = 0;
  int32_t generated = -1;  // times in the text; 0: in the prompt alone; -1: in neither
  float bias = 0.0f;
};

// The bias, then the repetition penalty, then frequency and presence.
constexpr float Changed(float logit, const LogitChange& change, const Penalties& penalties) {
  logit += change.bias;
  if (change.generated < 0) return logit;
  // Towards less likely, whatever the sign.
  logit = logit > 0.0f ? logit / penalties.repetition : logit * penalties.repetition;
  logit -= penalties.frequency * static_cast<float>(change.generated);
  if (change.generated > 0) logit -= penalties.presence;
  return logit;
}

}  // namespace echelon
