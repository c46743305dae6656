#include "worker/sampler.h"

#include <algorithm>

#include "common/check.h"
#include "kernels/exact_math.h"
#include "worker/gumbel.h"
#include "worker/logit_scan.h"
#include "worker/logprobs.h"
#include "worker/vocab_threshold.h"

namespace echelon {

namespace {
// min_p: probability at least min_p times the greatest, that is e^relative >= min_p.
double LogMin(const SamplingParams& params) {
  return params.min_p > 0.0f ? std::min(0.0, ExactLog(params.min_p)) : GumbelRow().log_min;
}
}  // namespace

void Sampler::Start(SequenceId id, const SamplingParams& params, int32_t prompt_tokens) {
  states_.insert_or_assign(id, SamplingState(params, prompt_tokens));
}

SamplingState& Sampler::StateOf(SequenceId id) {
  const auto it = states_.find(id);
  CHECK_MSG(it != states_.end(), "the sampler was never told of this sequence");
  return it->second;
}

bool Sampler::BackendMayDraw(const SamplingParams& params, size_t changes) const {
  return params.logprobs <= kDrawnBestMax && changes <= DrawBatch::kChangesMax;
}

bool Sampler::AddDraw(SequenceId id, int32_t position, int32_t row, DrawBatch& draws) {
  const SamplingState& state = StateOf(id);
  const SamplingParams& params = state.params();
  if (!BackendMayDraw(params, state.changes())) return false;
  DrawRow& how = draws.rows.emplace_back();
  how.row = row;
  how.position = static_cast<uint32_t>(position) + 1;
  how.seed = params.seed;
  how.best = params.logprobs;
  how.penalties = state.penalties();
  how.changes_begin = static_cast<int32_t>(draws.changes.size());
  state.AppendChanges(draws.changes);
  how.changes_end = static_cast<int32_t>(draws.changes.size());
  if (state.greedy()) return true;
  how.inverse_temperature = 1.0 / params.temperature;
  how.log_min = LogMin(params);
  how.top_k = static_cast<uint32_t>(params.top_k);
  how.top_p = params.top_p;
  return true;
}

bool Sampler::AddScore(SequenceId id, int32_t known, int32_t row, DrawBatch& draws) {
  const int32_t best = StateOf(id).params().prompt_logprobs;
  if (best > kDrawnBestMax) return false;
  DrawRow& how = draws.rows.emplace_back();
  how.row = row;
  how.known = known;
  how.best = best;
  return true;
}

void Sampler::SetDrawn(SequenceId id, int32_t token) {
  const auto it = states_.find(id);
  if (it != states_.end()) it->second.SetDrawn(token);
}

std::vector<SampledToken> Sampler::Run(std::span<const SampleRow> rows) {
  std::vector<SampledToken> results(rows.size());
  std::vector<Draw> draws;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].drawn != nullptr) {
      results[r] = *rows[r].drawn;
      continue;
    }
    CHECK(static_cast<int64_t>(rows[r].logits.size()) == vocab_.size());
    results[r].token = rows[r].known_next;
    if (rows[r].known_next < 0) draws.push_back(Prepare(rows[r], results[r]));
  }
  TakeArgmax(draws);
  std::erase_if(draws, [](const Draw& draw) { return draw.state->greedy(); });
  FindNuclei(draws);
  TakeGumbelMax(draws);
  AddLogprobs(rows, results);
  return results;
}

Sampler::Draw Sampler::Prepare(const SampleRow& row, SampledToken& result) {
  Draw draw;
  draw.row = &row;
  draw.state = &StateOf(row.id);
  draw.result = &result;
  draw.logits = row.logits;
  if (draw.state->params().adjusts()) {
    draw.adjusted.assign(row.logits.begin(), row.logits.end());
    draw.state->Adjust(vocab_, draw.adjusted);
    draw.logits = draw.adjusted;  // the vector's memory stays where it is when the Draw moves
  }
  return draw;
}

Sampler::Winner Sampler::WinnerOf(const Draw& draw, double score, int32_t id) const {
  if (id < 0) return {};
  return {score, id, draw.row->logits[id - vocab_.begin]};
}

std::vector<double> Sampler::Settle(const std::vector<Winner>& mine, std::vector<Draw>& draws) {
  const std::vector<Winner> all = exchange_.Gather(mine);
  std::vector<double> scores;
  for (size_t d = 0; d < draws.size(); ++d) {
    Winner best;
    for (size_t at = d; at < all.size(); at += draws.size()) {
      if (Beats({all[at].score, all[at].id}, {best.score, best.id})) best = all[at];
    }
    draws[d].result->token = best.id;
    draws[d].result->logit = best.raw_logit;
    scores.push_back(best.score);
  }
  return scores;
}

// The most likely token of each row: the answer of a greedy one, the reference point of the others.
void Sampler::TakeArgmax(std::vector<Draw>& draws) {
  std::vector<Winner> mine;
  for (const Draw& draw : draws) {
    const float max = MaxLogit(draw.logits);
    // Where no logit is a number the first token stands for them all.
    const int64_t at = std::max<int64_t>(FirstEqual(draw.logits, max), 0);
    const bool any = !draw.logits.empty();
    mine.push_back(WinnerOf(draw, max, any ? static_cast<int32_t>(vocab_.begin + at) : -1));
  }
  const std::vector<double> maxima = Settle(mine, draws);
  for (size_t d = 0; d < draws.size(); ++d) draws[d].max = static_cast<float>(maxima[d]);
}

// top_k, then top_p over what it left.
void Sampler::FindNuclei(std::vector<Draw>& draws) {
  std::vector<Draw*> by_count, by_mass;
  std::vector<ThresholdRow> count_rows, mass_rows;
  for (Draw& draw : draws) {
    if (draw.state->params().top_k == 0) continue;
    ThresholdRow row;
    row.logits = draw.logits;
    row.count = static_cast<uint64_t>(draw.state->params().top_k);
    count_rows.push_back(row);
    by_count.push_back(&draw);
  }
  const std::vector<uint32_t> count_keys = FindThresholds(count_rows, exchange_);
  for (size_t i = 0; i < by_count.size(); ++i) by_count[i]->key_min = count_keys[i];

  for (Draw& draw : draws) {
    if (!(draw.state->params().top_p < 1.0f)) continue;
    ThresholdRow row;
    row.logits = draw.logits;
    row.by_mass = true;
    row.max = draw.max;
    row.inverse_temperature = 1.0 / draw.state->params().temperature;
    row.key_min = draw.key_min;
    row.share = draw.state->params().top_p;
    mass_rows.push_back(row);
    by_mass.push_back(&draw);
  }
  const std::vector<uint32_t> mass_keys = FindThresholds(mass_rows, exchange_);
  for (size_t i = 0; i < by_mass.size(); ++i) {
    by_mass[i]->key_min = std::max(by_mass[i]->key_min, mass_keys[i]);
  }
}

void Sampler::TakeGumbelMax(std::vector<Draw>& draws) {
  std::vector<Winner> mine;
  for (const Draw& draw : draws) {
    const SamplingParams& params = draw.state->params();
    GumbelRow row;
    row.logits = draw.logits;
    row.first_id = vocab_.begin;
    row.max = draw.max;
    row.inverse_temperature = 1.0 / params.temperature;
    row.key_min = draw.key_min;
    row.log_min = LogMin(params);
    row.seed = params.seed;
    row.position = static_cast<uint32_t>(draw.row->position) + 1;
    const GumbelDraw best = DrawFrom(row);
    mine.push_back(WinnerOf(draw, best.score, best.id));
  }
  // Nothing can be drawn where every logit is NaN or -infinity: the argmax stays.
  std::vector<SampledToken> before;
  for (const Draw& draw : draws) before.push_back(*draw.result);
  Settle(mine, draws);
  for (size_t d = 0; d < draws.size(); ++d) {
    if (draws[d].result->token < 0) *draws[d].result = before[d];
  }
}

void Sampler::AddLogprobs(std::span<const SampleRow> rows, std::vector<SampledToken>& results) {
  std::vector<LogprobRow> wanted;
  std::vector<size_t> of_row;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].drawn != nullptr) continue;
    const SamplingParams& params = StateOf(rows[r].id).params();
    const bool scored = rows[r].known_next >= 0;
    const int best = scored ? params.prompt_logprobs : params.logprobs;
    if (best < 0) continue;
    wanted.push_back({rows[r].logits, best, rows[r].known_next});
    of_row.push_back(r);
  }
  const std::vector<Logprobs> found = FindLogprobs(wanted, vocab_, exchange_);
  for (size_t i = 0; i < found.size(); ++i) {
    SampledToken& result = results[of_row[i]];
    if (wanted[i].known >= 0) result.logit = found[i].known_logit;
    result.top = WithChosen(found[i], result.token, result.logit);
  }
}

}  // namespace echelon
