#pragma once
// Transport: the client's DEALER socket, as frames of docs/client-api.md. The one place of the
// client library that knows ZeroMQ. One thread at a time; lives as long as its Client.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/result.h"

namespace echelon {

inline constexpr char kClientProtocol[] = "echelon/1";
// The largest answer is a `done` with prompt log-probabilities: 128 Ki positions of 20 entries of
// about 40 bytes would be 100 MB; nothing honest is larger.
inline constexpr int64_t kAnswerBytesMax = 128 << 20;

// Parts 1 to 3 of a message; part 0 is kClientProtocol.
struct Frame {
  std::string type;
  std::string id;
  std::string body;
};

class Transport {
 public:
  // What one Poll saw. A broken connection is reported once; ZeroMQ would reconnect by itself, but
  // the service would then know us under a new name and our streams would stay with the old one.
  struct Polled {
    std::optional<Frame> frame;
    bool disconnected = false;
  };

  virtual ~Transport() = default;
  // Never blocks: kUnavailable when the queue to the service is full.
  virtual Status Send(const Frame& frame) = 0;
  // Waits at most `timeout_ms` for one frame or a broken connection. kCorrupt: a message that is
  // not of this protocol.
  virtual Result<Polled> Poll(int64_t timeout_ms) = 0;
  // Drops the connection with all that is queued on it and opens a new one.
  virtual Status Reopen() = 0;
};

// Connecting happens in the background: an endpoint nobody listens on is no error here.
Result<std::unique_ptr<Transport>> OpenTransport(const std::string& endpoint);

}  // namespace echelon
