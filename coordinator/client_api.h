#pragma once
// The client API's bodies (docs/client-api.md): JSON in, a checked Request out; progress and errors
// out as JSON. Pure functions; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/json.h"
#include "common/result.h"
#include "coordinator/request.h"
#include "coordinator/sequence.h"

namespace echelon {

inline constexpr std::string_view kClientProtocol = "echelon/1";
inline constexpr size_t kRequestIdBytesMax = 64;

bool IsValidRequestId(std::string_view id);

struct SubmitLimits {
  int64_t vocab_size = 0;
  int64_t deadline_default_ms = 0;
  bool speculate_default = false;
};
// Errors are kInvalidArgument or kUnsupported with the offending field.
Result<Request> ParseSubmit(std::string_view id, std::string_view body, const SubmitLimits& limits);
// The index to resume from.
Result<int64_t> ParseResume(std::string_view body);
// Bodies of cancel, status and ping: an object, of any fields.
Status ParseEmpty(std::string_view body);

// What the service says about itself in `done` and `accepted`.
struct ServiceFacts {
  std::string model;
  int tp = 1, pp = 1, sp = 1;
  std::string schedule;            // "standard", ...: what really runs
  std::vector<std::string> hosts;  // by rank
};
std::string AcceptedBody(const Sequence& sequence, const ServiceFacts& facts,
                         int64_t created_unix_s);
// Log entries [begin, end).
std::string TokensBody(const Sequence& sequence, int32_t begin, int32_t end);
std::string DoneBody(const Sequence& sequence, const ServiceFacts& facts);
std::string ErrorBody(const Error& error, std::optional<int64_t> retry_after_ms = {});

}  // namespace echelon
