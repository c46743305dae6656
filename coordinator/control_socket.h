#pragma once
// ControlSocket: the ROUTER that every worker rank's DEALER connects to. Only frames: what they
// mean is the group's business. Never blocks; one thread; the only file of the group that knows
// ZeroMQ.

#include <memory>
#include <optional>
#include <string>

#include "common/control.h"
#include "common/result.h"

namespace echelon {

struct ControlFrame {
  std::string peer;  // opaque: answers go there
  ControlHeader header;
  std::string body;
};

class ControlSocket {
 public:
  // "tcp://address:port", port 0 = any free one.
  static Result<std::unique_ptr<ControlSocket>> Bind(const std::string& endpoint);
  ~ControlSocket();

  const std::string& endpoint() const;  // with the port that was found
  int fd() const;                       // ZMQ_FD: edge-triggered, so Receive until nothing is left
  // The next well-formed frame. Malformed ones are dropped and counted.
  std::optional<ControlFrame> Receive();
  uint64_t malformed() const;
  // False when the peer is gone: its kernel closed the connection, which a process's death does
  // within milliseconds. What was sent to a peer that is only slow is queued (1000 frames).
  bool Send(const std::string& peer, const ControlHeader& header, const std::string& body);

 private:
  class Impl;
  explicit ControlSocket(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace echelon
