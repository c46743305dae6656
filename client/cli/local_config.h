#pragma once
// From the command line to the effective configuration of a local group, with everything refused
// that can be refused before a process is started.

#include <string>

#include "client/cli/options.h"
#include "common/config.h"
#include "common/result.h"

namespace echelon {

// Refuses (kCommandLineField) a layout that the checkpoint at config.model.path cannot be cut into.
// Opens the checkpoint's header only. The value is a warning: a schedule that is not the
// checkpoint's own makes another model of it; empty where there is nothing to warn of.
Result<std::string> CheckLayout(const ServiceConfig& config);

// The configuration of a local group on free ports of the loopback interface; not yet checked
// against the checkpoint.
Result<ServiceConfig> LocalConfig(const ServiceOptions& options);

}  // namespace echelon
