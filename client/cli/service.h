#pragma once
// Service: what a command talks to: a running service, or a coordinator with its local worker group
// started for this command alone and ended with it, whatever happens in between.

#include <memory>
#include <string>

#include "client/cli/child_process.h"
#include "client/cli/interrupts.h"
#include "client/cli/options.h"
#include "client/cpp/client.h"
#include "common/config.h"
#include "common/result.h"

namespace echelon {

// Where a coordinator that was started with --announce listens.
struct Announcement {
  std::string endpoint;  // of the client API
  std::string metrics;   // host:port, or empty
};
Result<Announcement> ParseAnnouncement(std::string_view text);

// A coordinator as a child. Its configuration, announcement and log lie in a folder that goes once
// it is ready (the log lives on, unnamed): from then not even a KILL of ours leaves files behind.
class CoordinatorProcess {
 public:
  // `log_to_stderr`: its lines go to our stderr and not into the log file.
  static Result<std::unique_ptr<CoordinatorProcess>> Start(const ServiceConfig& config,
                                                           bool log_to_stderr);
  ~CoordinatorProcess();
  // Waits for the announcement, connects, and shows progress until the group is ready.
  Result<std::unique_ptr<Client>> WaitReady(Interrupts& interrupts);
  // Its exit status once it has ended.
  std::optional<int> Poll() { return child_->Poll(); }
  int Stop();
  const Announcement& announcement() const { return announcement_; }
  // The error of a coordinator that ended by itself: the last line of its log.
  Error Ended(int status) const;

 private:
  CoordinatorProcess() = default;
  Result<Announcement> WaitAnnounced(Interrupts& interrupts);
  void RemoveFolder();

  std::string folder_;
  int log_fd_ = -1;
  bool log_to_stderr_ = false;
  Announcement announcement_;
  std::unique_ptr<ChildProcess> child_;
};

class Service {
 public:
  static Result<std::unique_ptr<Service>> Open(const ServiceOptions& options,
                                               Interrupts& interrupts);
  Client& client() { return *client_; }
  // The reason, once a local group has ended unasked: nobody would answer any more.
  Status Check();
  // Ends the local group; kInternal when it did not end well.
  Status Close();

 private:
  std::unique_ptr<CoordinatorProcess> coordinator_;  // null: a running service
  std::unique_ptr<Client> client_;
};

}  // namespace echelon
