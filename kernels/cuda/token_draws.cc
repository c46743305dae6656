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
}  // namespace

TokenDraws::~TokenDraws() {
  for (const Place& place : places_) {
    if (place.pinned != nullptr) device_.runtime().FreePinned(place.pinned);
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
  params.slice_count = (args.logits.cols + kDrawSlice - 1) / kDrawSlice;
  const auto slices = static_cast<size_t>(params.count * params.slice_count);
  const size_t slice_bytes = (slices * sizeof(DrawSlice) + 63) / 64 * 64;
  const bool search = std::ranges::any_of(args.rows, [](const DrawRow& row) {
    return row.inverse_temperature != 0.0 && (row.top_k > 0 || row.top_p < 1.0f);
  });
  const size_t search_bytes = search ? args.rows.size() * sizeof(DrawSearch) : 0;
  const size_t token_bytes = args.drawn.size_bytes();
  if (!device_.Reserve(std::max(token_bytes, kTokenBytesMin), "drawn tokens", tokens_) ||
      !device_.Reserve(slice_bytes + search_bytes, "the search for drawn tokens", scratch_) ||
      !PrepareChanges(args, params) || !PrepareScores(args, params) ||
      !ReservePinned(token_bytes + args.scores.size_bytes(), to)) {
    return params;
  }
  params.drawn = reinterpret_cast<DrawnToken*>(tokens_.data());
  params.slices = reinterpret_cast<DrawSlice*>(scratch_.data());
  if (search) params.searches = reinterpret_cast<DrawSearch*>(scratch_.data() + slice_bytes);
  to.drawn = args.drawn;
  to.scores = args.scores;
  return params;
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
  const auto slices = static_cast<size_t>(params.count * params.slice_count);
  if (!device_.Reserve(slices * kDrawnBestMax * sizeof(DrawnToken), "the best tokens", best_) ||
      !device_.Reserve(args.scores.size_bytes(), "the scores of tokens", scores_)) {
    return false;
  }
  params.best = reinterpret_cast<DrawnToken*>(best_.data());
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

bool TokenDraws::ReservePinned(size_t bytes, Place& place) {
  if (bytes <= place.bytes) return true;
  device_.Wait();  // copies to the old memory
  if (place.pinned != nullptr) device_.runtime().FreePinned(place.pinned);
  place = {};
  void* pinned = nullptr;
  const size_t wanted = std::max(bytes, kTokenBytesMin);
  if (!device_.AllocatePinned(wanted, &pinned)) return false;
  place.pinned = static_cast<char*>(pinned);
  place.bytes = wanted;
  return true;
}

}  // namespace echelon::cuda
