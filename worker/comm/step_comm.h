#pragma once
// Which communicator carries a step's tensors between ranks: what its buffers are, and on which
// wire they travel, decided by all ranks of a group together.

#include <memory>
#include <string>

#include "common/result.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"

namespace echelon {

struct StepCommOptions {
  std::string kind = "auto";  // worker.device_exchange
};

// For the backend's memory, over the ranks of `host`, whose backends may differ. Collective.
Result<std::unique_ptr<Communicator>> MakeStepCommunicator(std::unique_ptr<Communicator> host,
                                                           Backend& backend,
                                                           const StepCommOptions& options);

}  // namespace echelon
