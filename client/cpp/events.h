#pragma once
// What the service says to a client (docs/client-api.md, "Events"), as plain values. Decode* trust
// nothing: a missing field, a wrong kind or a number out of range is an error that names the field.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/json.h"
#include "common/result.h"

namespace echelon {

struct Logprob {
  int32_t id = 0;
  double logprob = 0.0;  // natural log
};
using LogprobRow = std::vector<Logprob>;  // best first, the chosen token last where not among them

struct LayoutInfo {
  int64_t tp = 1, pp = 1, sp = 1;
};

struct AcceptedEvent {
  int64_t prompt_tokens = 0;
  int64_t seed = 0;
  std::string model;
};

struct TokensEvent {
  int64_t seq = 0;  // index of the first token in the generated text
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<LogprobRow> logprobs;  // one row per id, or empty where not asked for
};

struct RankReport {
  int64_t rank = 0;
  std::string host;
  int64_t steps = 0;
  double compute_s = 0.0;
  double comm_hidden_s = 0.0;   // in flight while the rank computed
  double comm_exposed_s = 0.0;  // the rank waited
};

struct DoneEvent {
  int64_t seq = 0;  // tokens in all
  std::string finish_reason;
  std::string text;  // what was still held back
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double queue_s = 0.0, ttft_s = 0.0, decode_tokens_per_s = 0.0, total_s = 0.0;
  int64_t seed = 0;
  LayoutInfo layout;
  std::vector<RankReport> ranks;
  std::vector<int32_t> prompt_ids;
  // One row per prompt position, the first one null; empty where not asked for.
  std::vector<std::optional<LogprobRow>> prompt_logprobs;
};

struct ServiceError {
  Error error;  // code, message, field (`param`), rank and host where they apply
  bool retryable = false;
  int64_t retry_after_ms = -1;  // -1: the service gave no hint
};

struct StreamEvent {
  std::string id;  // the request's; empty for an error that belongs to none
  std::variant<AcceptedEvent, TokensEvent, DoneEvent, ServiceError> body;
  // Nothing follows a done or an error.
  bool IsLast() const {
    return std::holds_alternative<DoneEvent>(body) || std::holds_alternative<ServiceError>(body);
  }
};

struct RankProgress {
  int64_t rank = 0;
  std::string host;
  std::string backend;
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
  bool joined = false;
  bool ready = false;
  // Once ready: weight bytes read for a decoded token, bytes of a position's keys and values, and
  // how fast the rank's threads read memory (0: not measured).
  int64_t token_bytes = 0, kv_position_bytes = 0, read_bytes_per_s = 0;
};

struct ServiceStatus {
  std::string state;  // starting | loading | ready | relaunching | failed | stopped
  std::string version;
  std::string model;
  std::string schedule;
  std::string message;
  int64_t epoch = 0;
  LayoutInfo layout;
  int64_t running = 0, waiting = 0;
  int64_t kv_pages_free = 0, kv_pages_total = 0;
  int64_t context_max = 0;  // positions
  std::vector<RankProgress> ranks;
};

Result<AcceptedEvent> DecodeAccepted(const Json& body);
Result<TokensEvent> DecodeTokens(const Json& body);
Result<DoneEvent> DecodeDone(const Json& body);
Result<ServiceError> DecodeServiceError(const Json& body);
Result<ServiceStatus> DecodeStatus(const Json& body);

// The rows as the JSON of the API, for those who print them.
Json LogprobRowToJson(const LogprobRow& row);
Json LayoutToJson(const LayoutInfo& layout);

}  // namespace echelon
