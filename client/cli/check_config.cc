// echelon check-config service.yaml: the effective configuration, or what is wrong with it.

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "common/config.h"

namespace echelon {

Status RunCheckConfig(const CheckConfigOptions& options) {
  ASSIGN_OR_RETURN(const ServiceConfig config, LoadConfig(options.config, options.settings));
  PrintText(PrintConfig(config));
  return Status();
}

}  // namespace echelon
