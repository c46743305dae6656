#pragma once
// Normalizer: rewrites text before it is cut and merged, keeping track of which bytes came from a
// stranger. Pure functions.

#include <vector>

#include "common/model/added_tokens.h"
#include "common/model/tokenizer_data.h"

namespace echelon {

MarkedText Normalize(const std::vector<NormalizerStep>& steps, MarkedText text);

}  // namespace echelon
