#include "worker/logprobs.h"

#include <algorithm>
#include <limits>

#include "kernels/exact_math.h"
#include "worker/logit_scan.h"

namespace echelon {

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit = kNone;
  int32_t id = -1;
};

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Writes the part's `count` most likely, descending; padded with id -1.
void BestOf(std::span<const float> logits, int64_t first_id, int count, Candidate* out) {
  std::vector<Candidate> heap;  // the least likely of the best on top
  for (size_t i = 0; count > 0 && i < logits.size(); ++i) {
    const bool full = static_cast<int>(heap.size()) == count;
    if (full && !(logits[i] > heap.front().logit)) continue;  // ids ascend: a tie comes too late
    const float logit = logits[i] == logits[i] ? logits[i] : kNone;
    const Candidate candidate{logit, static_cast<int32_t>(first_id + static_cast<int64_t>(i))};
    if (full) {
      std::pop_heap(heap.begin(), heap.end(), MoreLikely);
      heap.pop_back();
    }
    heap.push_back(candidate);
    std::push_heap(heap.begin(), heap.end(), MoreLikely);
  }
  std::sort_heap(heap.begin(), heap.end(), MoreLikely);
  std::copy(heap.begin(), heap.end(), out);
}

}  // namespace

void Logprobs::SetMass(uint64_t mass) {
  log_sum = ExactLog(static_cast<double>(std::max<uint64_t>(mass, 1)) *
                     (1.0 / (uint64_t{1} << kMassBits)));
}

std::vector<Logprobs> FindLogprobs(std::span<const LogprobRow> rows, Range vocab,
                                   VocabExchange& exchange) {
  std::vector<Logprobs> out(rows.size());
  if (rows.empty()) return out;
  const size_t n = rows.size();

  // First: the maxima, the best candidates and the known tokens' logits, in one message.
  size_t per_rank = 2 * n;
  for (const LogprobRow& row : rows) per_rank += row.best;
  std::vector<Candidate> mine(per_rank);
  size_t at = 2 * n;
  for (size_t r = 0; r < n; ++r) {
    mine[r].logit = MaxLogit(rows[r].logits);
    const int32_t known = rows[r].known;
    if (vocab.begin <= known && known < vocab.end) {
      mine[n + r] = {rows[r].logits[known - vocab.begin], known};
    }
    BestOf(rows[r].logits, vocab.begin, rows[r].best, &mine[at]);
    at += rows[r].best;
  }
  const std::vector<Candidate> all = exchange.Gather(mine);
  at = 2 * n;
  std::vector<std::vector<Candidate>> best(n);
  for (size_t r = 0; r < n; ++r) {
    out[r].max = kNone;
    for (int rank = 0; rank < exchange.ranks(); ++rank) {
      const Candidate* of_rank = &all[rank * per_rank];
      out[r].max = std::max(out[r].max, of_rank[r].logit);
      if (of_rank[n + r].id >= 0) out[r].known_logit = of_rank[n + r].logit;
      best[r].insert(best[r].end(), of_rank + at, of_rank + at + rows[r].best);
    }
    at += rows[r].best;
    std::erase_if(best[r], [](const Candidate& c) { return c.id < 0; });
    std::sort(best[r].begin(), best[r].end(), MoreLikely);
    if (best[r].size() > static_cast<size_t>(rows[r].best)) best[r].resize(rows[r].best);
  }

  // Second: the masses relative to the maxima.
  std::vector<uint64_t> masses(n);
  for (size_t r = 0; r < n; ++r) masses[r] = MassSum(rows[r].logits, out[r].max, 1.0);
  exchange.Sum(masses);
  for (size_t r = 0; r < n; ++r) {
    out[r].SetMass(masses[r]);
    for (const Candidate& c : best[r]) out[r].best.push_back({c.id, out[r].Of(c.logit)});
  }
  return out;
}

std::vector<TokenLogprob> WithChosen(const Logprobs& row, int32_t chosen, float chosen_logit) {
  std::vector<TokenLogprob> top = row.best;
  const bool listed =
      std::any_of(top.begin(), top.end(), [&](const TokenLogprob& t) { return t.id == chosen; });
  if (!listed) top.push_back({chosen, row.Of(chosen_logit)});
  return top;
}

}  // namespace echelon
