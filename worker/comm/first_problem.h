#pragma once
// Whether all ranks of a group can do what they are about to do together.

#include <string>

#include "common/result.h"
#include "worker/comm/communicator.h"

namespace echelon {

// `problem`: why this rank cannot; empty: it can. The first rank's that has one, with its number
// and host; the same on all ranks. Longer texts are cut off. Collective.
Status FirstProblem(Communicator& group, const std::string& host, const std::string& problem);

}  // namespace echelon
