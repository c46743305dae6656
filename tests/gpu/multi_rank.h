#pragma once
// What a rank of tests/gpu/run_multi does (multi_rank.cc), for a program whose devices are real and
// one whose devices are emulated.

#include <functional>
#include <memory>

#include "common/result.h"
#include "worker/comm/nccl_library.h"

namespace echelon::testing {

using LoadNccl = std::function<Result<std::unique_ptr<NcclLibrary>>()>;

// Returns the exit status.
int RunMultiRank(int argc, char** argv, const LoadNccl& load_nccl);

}  // namespace echelon::testing
