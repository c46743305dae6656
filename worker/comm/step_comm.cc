#include "worker/comm/step_comm.h"

#include <utility>

#include "worker/comm/staged_comm.h"

namespace echelon {

Result<std::unique_ptr<Communicator>> MakeStepCommunicator(std::unique_ptr<Communicator> host,
                                                           Backend& backend,
                                                           const StepCommOptions&) {
  if (host->size() == 1 || backend.host_memory()) return host;
  return std::unique_ptr<Communicator>(new StagedCommunicator(std::move(host), backend));
}

}  // namespace echelon
