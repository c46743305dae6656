#include "worker/vocab_threshold.h"

#include <algorithm>

#include "kernels/exact_math.h"
#include "kernels/threshold_math.h"

namespace echelon {

namespace {

// A search under way: keys that begin with `prefix` still have to give `target`.
struct Search {
  uint32_t prefix = 0;
  uint64_t target = 0;
  bool reached = true;
  // This rank's logits whose keys begin with the first digit found: few, so that the later rounds
  // do not pass over the vocabulary again.
  std::vector<float> candidates;
};

uint64_t WeightOf(const ThresholdRow& row, float logit) {
  if (!row.by_mass) return 1;
  return MassOf((static_cast<double>(logit) - row.max) * row.inverse_temperature);
}

void AddFirstHistogram(const ThresholdRow& row, uint64_t* histogram) {
  constexpr size_t kBlock = 256;  // masses of a block are computed apart, as vector code
  uint64_t weights[kBlock];
  std::fill(std::begin(weights), std::end(weights), 1);
  for (size_t begin = 0; begin < row.logits.size(); begin += kBlock) {
    const auto block = row.logits.subspan(begin, std::min(kBlock, row.logits.size() - begin));
    if (row.by_mass) Masses(block, row.max, row.inverse_temperature, weights);
    for (size_t i = 0; i < block.size(); ++i) {
      const uint32_t key = OrderKey(block[i]);
      histogram[key >> (32 - kDigitBits)] += key < row.key_min ? 0 : weights[i];
    }
  }
}

// Most blocks lie wholly below the digit, which their maxima tell.
void CollectCandidates(const ThresholdRow& row, Search& search) {
  constexpr size_t kBlock = 64;
  for (size_t begin = 0; begin < row.logits.size(); begin += kBlock) {
    const auto block = row.logits.subspan(begin, std::min(kBlock, row.logits.size() - begin));
    if (OrderKey(MaxLogit(block)) >> (32 - kDigitBits) < search.prefix) continue;
    for (const float logit : block) {
      if (OrderKey(logit) >> (32 - kDigitBits) == search.prefix) search.candidates.push_back(logit);
    }
  }
}

void AddHistogram(const ThresholdRow& row, Search& search, int round, uint64_t* histogram) {
  if (round == 0) return AddFirstHistogram(row, histogram);
  if (round == 1) CollectCandidates(row, search);
  const int shift = 32 - kDigitBits * (round + 1);
  for (const float logit : search.candidates) {
    const uint32_t key = OrderKey(logit);
    if (key < row.key_min || key >> (shift + kDigitBits) != search.prefix) continue;
    histogram[key >> shift & (kDigits - 1)] += WeightOf(row, logit);
  }
}

// Takes the digit in which the sum from the top reaches the target.
void Descend(const uint64_t* histogram, Search& search) {
  int digit = kDigits - 1;
  for (; digit > 0 && histogram[digit] < search.target; --digit) {
    search.target -= histogram[digit];
  }
  if (histogram[digit] < search.target) search.reached = false;
  search.prefix = search.prefix << kDigitBits | static_cast<uint32_t>(digit);
}

}  // namespace

std::vector<uint32_t> FindThresholds(std::span<const ThresholdRow> rows, VocabExchange& exchange) {
  std::vector<Search> searches(rows.size());
  std::vector<uint64_t> histograms;
  for (int round = 0; round < kSearchRounds && !rows.empty(); ++round) {
    histograms.assign(rows.size() * kDigits, 0);
    for (size_t r = 0; r < rows.size(); ++r) {
      AddHistogram(rows[r], searches[r], round, &histograms[r * kDigits]);
    }
    exchange.Sum(histograms);
    for (size_t r = 0; r < rows.size(); ++r) {
      const uint64_t* histogram = &histograms[r * kDigits];
      if (round == 0) {
        uint64_t total = 0;
        for (int d = 0; d < kDigits; ++d) total += histogram[d];
        searches[r].target = rows[r].by_mass ? ShareOf(rows[r].share, total) : rows[r].count;
      }
      Descend(histogram, searches[r]);
    }
  }
  std::vector<uint32_t> thresholds;
  for (const Search& search : searches) thresholds.push_back(search.reached ? search.prefix : 0);
  return thresholds;
}

}  // namespace echelon
