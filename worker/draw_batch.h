#pragma once
// DrawBatch: rows whose tokens a backend draws by itself, gathered for one DrawTokens, and its
// answers. Lives until they are there; may be moved meanwhile. One thread.

#include <cstdint>
#include <vector>

#include "common/step.h"
#include "kernels/backend.h"

namespace echelon {

struct DrawBatch {
  // Changes of logits a row may have for the backend to draw from it: 96 KiB to upload, a fifth of
  // the logits of a vocabulary of 128K that the host would download to do it itself.
  static constexpr size_t kChangesMax = 8192;

  std::vector<DrawRow> rows;
  std::vector<LogitChange> changes;  // of all rows
  std::vector<DrawnToken> drawn;     // of each row
  std::vector<DrawnScores> scores;   // of each row, or empty where none asks

  // What the backend is asked when all rows are there; its answers come into this object. `part`:
  // null where the logits are of the whole vocabulary.
  DrawArgs Ask(Tensor logits, const VocabPart* part);
  // When they have come: the token of a row, with its log-probabilities where they were asked for.
  SampledToken AnswerOf(size_t row) const;
};

}  // namespace echelon
