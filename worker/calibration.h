#pragma once
// Calibrate: the rates of this machine for one checkpoint, measured in some seconds, for the
// planner (common/planner/machine.h). It runs the executor itself, alone: as a whole rank, and as
// one rank of several whose peers are not there, so that what shrinks with the shard tells itself
// apart from what does not. All cores must be free.

#include "common/model/checkpoint.h"
#include "common/planner/machine.h"
#include "common/result.h"
#include "kernels/backend.h"

namespace echelon {

struct Calibration {
  HostSpec host;  // slots: 1
  Link inside;    // between threads of this process
};

// `backend.threads` is ignored: ranks of one thread (two at once, where there are two cores) and a
// rank of all cores are measured.
Result<Calibration> Calibrate(const Checkpoint& checkpoint, const BackendOptions& backend);

}  // namespace echelon
