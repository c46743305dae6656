#pragma once
// Normalizer: rewrites text before it is cut and merged, keeping track of which bytes came from a
// stranger. Pure functions.

#include <vector>

#include "common/model/added_tokens.h"
#include "common/model/tokenizer_data.h"

namespace echelon {

// Ill-formed UTF-8 becomes U+FFFD, as trusted as the first byte it stands for.
MarkedText RepairMarked(const MarkedText& text);
MarkedText Normalize(const std::vector<NormalizerStep>& steps, MarkedText text);

}  // namespace echelon
