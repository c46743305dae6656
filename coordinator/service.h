#pragma once
// Service: the whole coordinator program but its command line: builds the parts from a
// configuration, turns the state machine, sleeps when there is nothing to do, ends cleanly.
//
// Thread: Run belongs to the main thread; the tokenizer and the metrics server have one each.

#include <functional>
#include <string>

#include "common/config.h"
#include "common/log.h"
#include "common/result.h"

namespace echelon {

// What a parent or a test needs to find the service.
struct Announcement {
  std::string endpoint;  // clients'
  std::string metrics;   // "127.0.0.1:9760", "" = off
};

struct ServiceOptions {
  ServiceConfig config;
  std::string worker_program;
  int stop_fd = -1;  // a non-blocking signalfd: a signal ends the service, a second one at once
  std::function<Status(const Announcement&)> announce;  // once the sockets are bound
};

// Returns when stop_fd says so (ok), or when the service cannot start or go on (the reason).
Status RunService(const ServiceOptions& options, const Logger& logger);

}  // namespace echelon
