#include "worker/draw_batch.h"

#include <algorithm>

#include "worker/logprobs.h"

namespace echelon {

DrawArgs DrawBatch::Ask(Tensor logits, const VocabPart* part) {
  drawn.resize(rows.size());
  const bool scored = std::ranges::any_of(rows, [](const DrawRow& row) { return row.best >= 0; });
  scores.resize(scored ? rows.size() : 0);
  return {logits, part, rows, changes, drawn, scores};
}

SampledToken DrawBatch::AnswerOf(size_t row) const {
  SampledToken answer{drawn[row].id, drawn[row].logit, {}};
  const int best = rows[row].best;
  if (best < 0) return answer;
  Logprobs found;
  found.max = scores[row].max;
  found.SetMass(scores[row].mass);
  for (int k = 0; k < best && scores[row].best[k].id >= 0; ++k) {
    found.best.push_back({scores[row].best[k].id, found.Of(scores[row].best[k].logit)});
  }
  answer.top = WithChosen(found, answer.token, answer.logit);
  return answer;
}

}  // namespace echelon
