#pragma once
// GenerationRequest: what a client asks for, as the fields of docs/client-api.md. What is left
// unset is not sent, so that the service's defaults hold.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/json.h"

namespace echelon {

struct GenerationRequest {
  // A text, token ids, or (as Json) a conversation: an array of {"role", "content"}.
  std::variant<std::string, std::vector<int32_t>, Json> prompt;
  std::optional<int64_t> max_tokens;
  std::optional<double> temperature;
  std::optional<double> top_p, min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  std::optional<int64_t> logprobs;         // K best of every step
  std::optional<int64_t> prompt_logprobs;  // K best of every prompt position
  std::optional<int64_t> deadline_ms;      // from acceptance
  std::string speculation;                 // "off" or "prompt_lookup"; "" = the service's
  bool ignore_eos = false;

  // The body of a `submit`.
  Json ToJson() const;
};

}  // namespace echelon
