#pragma once
// The frames between the coordinator (ROUTER) and each worker rank (DEALER). Every rank holds such
// a link in a thread of its own, so that joining, load progress, heartbeats, failures and the lease
// work whatever MPI is doing; plans go to the lead (rank 0) alone, results come from the rank that
// has the last stage's first tp index.
//
// One message = two parts: header, body. Header (24 bytes, little-endian): magic "ECW1", type u32,
// epoch u64, rank u32, reserved u32 (0). A frame of an older epoch is dropped by either side.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace echelon {

inline constexpr uint32_t kControlProtocolVersion = 1;

enum class ControlType : uint32_t {
  // worker -> coordinator
  kJoin = 1,
  kProgress = 2,
  kReady = 3,
  kResult = 4,
  kFailure = 5,
  // both ways
  kHeartbeat = 10,
  // coordinator -> worker
  kWelcome = 20,
  kPlan = 21,
  kShutdown = 22,
  kRefuse = 23,
};

struct ControlHeader {
  ControlType type = ControlType::kHeartbeat;
  uint64_t epoch = 0;
  uint32_t rank = 0;
};
std::string EncodeHeader(const ControlHeader& header);
Result<ControlHeader> DecodeHeader(std::string_view bytes);

struct JoinMessage {
  uint32_t protocol = kControlProtocolVersion;
  uint32_t world = 0;  // ranks the launcher says there are
  uint64_t pid = 0;
  std::string build;  // BuildId() of the worker: must equal the coordinator's
  std::string host;
  std::string interface;  // address of the interface that reaches the coordinator
};
struct WelcomeMessage {
  std::string config_yaml;  // the effective configuration: one truth for all ranks
};
struct ProgressMessage {
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
};
struct ReadyMessage {
  std::string weights_fingerprint;   // Checkpoint::Fingerprint: must agree over ranks
  std::string numerics_fingerprint;  // Backend::NumericsFingerprint: must agree over ranks
  std::string backend;               // Backend::Describe, for people
  std::string device;                // Backend::DeviceName, for errors
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t token_bytes = 0;        // of the weights, read for one decoded token
  uint64_t kv_position_bytes = 0;  // keys and values of one position, all layers of the rank
  uint64_t read_bytes_per_s = 0;   // by its threads; 0 = not measured (worker.measure_memory)
  uint32_t kv_pages = 0;           // agreed over the ranks
  uint32_t page_tokens = 0;
  uint32_t context_max = 0;  // positions
  uint32_t vocab_size = 0;
};
// Of a worker. An empty body, as the coordinator sends, is that of a rank that waits for nobody.
struct HeartbeatMessage {
  uint64_t waited_ms = 0;         // for a message of one of these ranks or more
  std::vector<uint32_t> awaited;  // at most kAwaitedMax of them
  bool on_device = false;         // for its device, which computes, or waits for them
};
inline constexpr uint32_t kAwaitedMax = 16;
struct FailureMessage {
  Error error;  // rank and host filled in
};
struct RefuseMessage {
  std::string reason;
};

std::string Encode(const JoinMessage& message);
std::string Encode(const WelcomeMessage& message);
std::string Encode(const ProgressMessage& message);
std::string Encode(const ReadyMessage& message);
std::string Encode(const HeartbeatMessage& message);
std::string Encode(const FailureMessage& message);
std::string Encode(const RefuseMessage& message);
Result<JoinMessage> DecodeJoin(std::string_view bytes);
Result<WelcomeMessage> DecodeWelcome(std::string_view bytes);
Result<ProgressMessage> DecodeProgress(std::string_view bytes);
Result<ReadyMessage> DecodeReady(std::string_view bytes);
Result<HeartbeatMessage> DecodeHeartbeat(std::string_view bytes);
Result<FailureMessage> DecodeFailure(std::string_view bytes);
Result<RefuseMessage> DecodeRefuse(std::string_view bytes);

// Version and build of this program: "0.1.0+<git commit>".
std::string BuildId();

}  // namespace echelon
