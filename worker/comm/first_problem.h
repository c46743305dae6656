#pragma once
// Whether all ranks of a group can do what they are about to do together.

#include <string>

#include "common/result.h"
#include "worker/comm/communicator.h"

namespace echelon {

// `mine`: why this rank on `host` cannot, or ok. The first rank's error that has one, with its
// number and host; the same on all ranks. Longer texts are cut off. Collective.
Status FirstProblem(Communicator& group, const std::string& host, const Status& mine);
template <typename T>
Status FirstProblem(Communicator& group, const std::string& host, const Result<T>& mine) {
  return FirstProblem(group, host, mine.ok() ? Status() : Status(mine.error()));
}

}  // namespace echelon
