// echelon serve service.yaml: a coordinator in the foreground until it is interrupted.

#include <chrono>
#include <thread>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/local_config.h"
#include "client/cli/service.h"
#include "common/strings.h"

namespace echelon {

Status RunServe(const ServeOptions& options, Interrupts& interrupts) {
  ASSIGN_OR_RETURN(const ServiceConfig config, LoadConfig(options.config, options.settings));
  ASSIGN_OR_RETURN(const std::string warning, CheckLayout(config));
  if (!warning.empty()) PrintNote(warning + "\n");
  ASSIGN_OR_RETURN(const auto coordinator, CoordinatorProcess::Start(config, true));
  const auto client = coordinator->WaitReady(interrupts);
  if (!client.ok()) {
    coordinator->Stop();
    // Ctrl-C while the model loads is a wish, not a failure.
    if (client.error().code == ErrorCode::kCancelled) return Status();
    return client.error();
  }
  const Announcement& where = coordinator->announcement();
  PrintNote(
      StrCat("serving at ", where.endpoint,
             where.metrics.empty() ? "" : StrCat(", metrics at http://", where.metrics, "/metrics"),
             "; Ctrl-C ends the service\n"));
  while (true) {
    if (const auto status = coordinator->Poll()) {
      return InternalError(StrCat("the coordinator ended with status ", *status));
    }
    if (interrupts.Take()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  PrintNote("ending the service\n");
  const int status = coordinator->Stop();
  if (status == 0) return Status();
  return InternalError(StrCat("the coordinator ended with status ", status));
}

}  // namespace echelon
