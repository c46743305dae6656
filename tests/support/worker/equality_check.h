#pragma once
// The equality matrix as one test body, whatever computes: each of a list of layouts agrees with
// the naive twin in double precision (desync: emulated with as many tp ranks) within the model's
// tolerance, answers one rank's tokens, gives the same bits twice, and the same bits as with one
// stage.

#include <functional>
#include <memory>
#include <vector>

#include "tests/support/worker/layout_models.h"

namespace echelon::testing {

// `layouts`: of each tp and sp with one stage first, and before all others one rank's, or of desync
// with sp > 1 that of its tp with sp = 1. `start`: makes the group of one.
void CheckEquality(const LayoutModel& of, const TinyGroups& groups,
                   const std::vector<ParallelLayout>& layouts,
                   const std::function<std::unique_ptr<LocalGroup>(const ParallelLayout&)>& start);

}  // namespace echelon::testing
