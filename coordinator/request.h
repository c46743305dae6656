#pragma once
// Request: a client's wish, checked (client_api.cc) but not yet tokenized. A plain value; its
// progress is a Sequence (sequence.h).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/json.h"
#include "common/step.h"

namespace echelon {

struct Request {
  std::string id;          // chosen by the client
  uint64_t body_hash = 0;  // of the body's bytes: a resubmission must send the same ones
  size_t body_bytes = 0;

  // Exactly one of these three is given.
  std::optional<std::string> prompt_text;
  std::vector<int32_t> prompt_ids;
  Json messages;  // array of {"role", "content"}, or null

  SamplingParams params;
  bool seed_given = false;
  std::optional<int32_t> max_tokens;  // absent: the service's default, cut to the context
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool stream = true;
  bool speculate = false;   // by prompt lookup
  int64_t deadline_ms = 0;  // from acceptance; 0 = none
};

}  // namespace echelon
