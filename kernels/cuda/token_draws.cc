#include "kernels/cuda/token_draws.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace echelon::cuda {

namespace {
// 4,096 tokens: graphs hold the address, so that it should not change.
constexpr size_t kTokenBytesMin = size_t{32} << 10;
// Lists grow by a token a step: 4,096 changes, and twice as many each time it is not enough.
constexpr size_t kRawBytesMin = size_t{32} << 10;

int64_t SlicesOf(const DrawParams& params) {
  return params.ranks * params.count * params.slice_count;
}
}  // namespace

TokenDraws::~TokenDraws() {
  for (const Place& place : places_) outgrown_.push_back(place.pinned);
  for (char* const pinned : outgrown_) {
    if (pinned != nullptr) device_.runtime().FreePinned(pinned);
  }
}

DrawParams TokenDraws::Prepare(int place, const DrawArgs& args) {
  Place& to = places_[place];
  CHECK(to.drawn.empty() || to.drawn.data() == args.drawn.data());
  CHECK(args.drawn.size() == args.rows.size());
  for (const DrawRow& row : args.rows) {
    CHECK(row.row >= 0 && row.row < args.logits.rows && row.best <= kDrawnBestMax);
    CHECK(row.best < 0 || args.scores.size() == args.rows.size());
    CHECK(row.changes_begin >= 0 && row.changes_begin <= row.changes_end &&
          static_cast<size_t>(row.changes_end) <= args.changes.size());
  }
  DrawParams params = {};
  if (args.rows.empty()) return params;
  params.logits = args.logits;
  params.rows = staging_.Put(args.rows);
  params.count = static_cast<int64_t>(args.rows.size());
  params.ranks = 1;
  int64_t cols_max = args.logits.cols;
  if (args.part != nullptr) {
    params.first = args.part->begin;
    params.rank = args.part->rank;
    params.ranks = args.part->ranks;
    cols_max = args.part->cols_max;
  }
  CHECK(args.logits.cols <= cols_max);
  params.slice_count = (cols_max + kDrawSlice - 1) / kDrawSlice;
  const size_t token_bytes = args.drawn.size_bytes();
  if (!device_.Reserve(std::max(token_bytes, kTokenBytesMin), "drawn tokens", tokens_) ||
      !PrepareSearch(args, params) || !PrepareChanges(args, params) ||
      !PrepareScores(args, params) || !ReservePinned(token_bytes + args.scores.size_bytes(), to)) {
    return params;
  }
  params.drawn = reinterpret_cast<DrawnToken*>(tokens_.data());
  to.drawn = args.drawn;
  to.scores = args.scores;
  return params;
}

bool TokenDraws::PrepareSearch(const DrawArgs& args, DrawParams& params) {
  bool draws = false;
  for (const DrawRow& row : args.rows) {
    const bool of_row = row.inverse_temperature != 0.0;
    draws = draws || of_row || row.known >= 0;
    params.searches_by[0] = params.searches_by[0] || (of_row && row.top_k > 0);
    params.searches_by[1] = params.searches_by[1] || (of_row && row.top_p < 1.0f);
  }
  const bool searches = params.searches_by[0] || params.searches_by[1];
  const auto rows = static_cast<size_t>(params.count);
  const size_t slices = static_cast<size_t>(SlicesOf(params)) * sizeof(DrawSlice);
  const size_t sums = searches ? 2 * kSearchRounds * static_cast<size_t>(params.ranks) * rows *
                                     kDigits * sizeof(uint64_t)
                               : 0;
  const size_t found = searches ? rows * sizeof(DrawSearch) : 0;
  if (!device_.Reserve(2 * slices + sums + found, "the search for drawn tokens", scratch_)) {
    return false;
  }
  char* const at = scratch_.data();
  params.maxima = reinterpret_cast<DrawSlice*>(at);
  if (draws) params.draws = reinterpret_cast<DrawSlice*>(at + slices);
  if (searches) {
    params.sums = reinterpret_cast<uint64_t*>(at + 2 * slices);
    params.searches = reinterpret_cast<DrawSearch*>(at + 2 * slices + sums);
  }
  return true;
}

bool TokenDraws::PrepareChanges(const DrawArgs& args, DrawParams& params) {
  if (args.changes.empty()) return true;
  const size_t bytes = std::bit_ceil(args.changes.size() * sizeof(DrawnToken));
  if (!device_.Reserve(std::max(bytes, kRawBytesMin), "changed logits", raw_)) return false;
  params.changes = staging_.Put(args.changes);
  params.raw = reinterpret_cast<DrawnToken*>(raw_.data());
  return params.changes != nullptr;
}

bool TokenDraws::PrepareScores(const DrawArgs& args, DrawParams& params) {
  if (args.scores.empty()) return true;
  const auto slices = static_cast<size_t>(SlicesOf(params));
  if (!device_.Reserve(slices * sizeof(ScoreSlice), "the best tokens", best_) ||
      !device_.Reserve(args.scores.size_bytes(), "the scores of tokens", scores_)) {
    return false;
  }
  params.slice_scores = reinterpret_cast<ScoreSlice*>(best_.data());
  params.scores = reinterpret_cast<DrawnScores*>(scores_.data());
  return true;
}

const DrawnToken* TokenDraws::Last() {
  if (!device_.Reserve(kTokenBytesMin, "drawn tokens", tokens_)) return nullptr;
  return reinterpret_cast<const DrawnToken*>(tokens_.data());
}

void TokenDraws::Download(int place) {
  const Place& of = places_[place];
  device_.CopyOut(of.pinned, tokens_.data(), of.drawn.size_bytes());
  device_.CopyOut(of.pinned + of.drawn.size_bytes(), scores_.data(), of.scores.size_bytes());
}

void TokenDraws::Collect(int place, bool good) {
  Place& of = places_[place];
  if (good && !of.drawn.empty()) {
    const size_t bytes = of.drawn.size_bytes();
    std::memcpy(of.drawn.data(), of.pinned, bytes);
    if (!of.scores.empty()) {
      std::memcpy(of.scores.data(), of.pinned + bytes, of.scores.size_bytes());
    }
  }
  of.drawn = {};
  of.scores = {};
}

// What is outgrown is kept, as the device's memory is (Device::Reserve).
bool TokenDraws::ReservePinned(size_t bytes, Place& place) {
  if (bytes <= place.bytes) return true;
  const size_t wanted = std::max({bytes, kTokenBytesMin, place.bytes + place.bytes / 2});
  outgrown_.push_back(place.pinned);
  place = {};
  void* pinned = nullptr;
  if (!device_.AllocatePinned(wanted, &pinned)) return false;
  place.pinned = static_cast<char*>(pinned);
  place.bytes = wanted;
  return true;
}

}  // namespace echelon::cuda
