#pragma once
// FakeServer: a ROUTER socket on a free local port that speaks docs/client-api.md as a test tells
// it to. The handler runs on the server's own thread; everything else may be called from the
// test's.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/cpp/transport.h"

namespace echelon {

// One thing the server does: waits, then breaks every connection or sends a frame to the peer whose
// message caused it.
struct FakeAction {
  Frame frame;
  int64_t delay_ms = 0;
  bool disconnect = false;
};

class FakeServer {
 public:
  using Handler = std::function<std::vector<FakeAction>(const Frame& received)>;
  explicit FakeServer(Handler handler);
  ~FakeServer();
  std::string endpoint() const;
  // Everything received so far, in order.
  std::vector<Frame> received() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Answers ping by itself and gives everything else to `handler`.
FakeServer::Handler WithPong(FakeServer::Handler handler);

// A service with a token log: request r answers with `tokens` tokens, ids 100, 101, ..., text "t0
// t1
// ...", greedy and always the same. Knows submit (idempotent), resume, cancel, status, ping.
struct FakeServiceOptions {
  int tokens = 5;
  int64_t token_delay_ms = 0;
  int break_before_token = -1;  // the connections break once before this token is sent
  int skip_token_once = -1;     // this token is left out once: a gap in the stream
};
FakeServer::Handler FakeService(FakeServiceOptions options);

}  // namespace echelon
