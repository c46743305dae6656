#include "kernels/cuda/token_draws.h"

#include <algorithm>
#include <cstring>

namespace echelon::cuda {

namespace {
// 4,096 tokens: graphs hold the address, so that it should not change.
constexpr size_t kTokenBytesMin = size_t{32} << 10;
}  // namespace

TokenDraws::~TokenDraws() {
  for (const Place& place : places_) {
    if (place.pinned != nullptr) device_.runtime().FreePinned(place.pinned);
  }
}

DrawParams TokenDraws::Prepare(int place, Tensor logits, std::span<const DrawRow> rows,
                               std::span<DrawnToken> drawn) {
  Place& to = places_[place];
  CHECK(to.drawn.empty() || to.drawn.data() == drawn.data());
  CHECK(drawn.size() == rows.size());
  for (const DrawRow& row : rows) CHECK(row.row >= 0 && row.row < logits.rows);
  DrawParams params = {};
  if (rows.empty()) return params;
  params.logits = logits;
  params.rows = staging_.Put(rows);
  params.count = static_cast<int64_t>(rows.size());
  params.slice_count = (logits.cols + kDrawSlice - 1) / kDrawSlice;
  const auto slices = static_cast<size_t>(params.count * params.slice_count);
  const size_t slice_bytes = (slices * sizeof(DrawSlice) + 63) / 64 * 64;
  const bool search = std::ranges::any_of(rows, [](const DrawRow& row) {
    return row.inverse_temperature != 0.0 && (row.top_k > 0 || row.top_p < 1.0f);
  });
  const size_t search_bytes = search ? rows.size() * sizeof(DrawSearch) : 0;
  if (!device_.Reserve(std::max(drawn.size_bytes(), kTokenBytesMin), "drawn tokens", tokens_) ||
      !device_.Reserve(slice_bytes + search_bytes, "the search for drawn tokens", scratch_) ||
      !ReservePinned(drawn.size_bytes(), to)) {
    return params;
  }
  params.drawn = reinterpret_cast<DrawnToken*>(tokens_.data());
  params.slices = reinterpret_cast<DrawSlice*>(scratch_.data());
  if (search) params.searches = reinterpret_cast<DrawSearch*>(scratch_.data() + slice_bytes);
  to.drawn = drawn;
  return params;
}

const DrawnToken* TokenDraws::Last() {
  if (!device_.Reserve(kTokenBytesMin, "drawn tokens", tokens_)) return nullptr;
  return reinterpret_cast<const DrawnToken*>(tokens_.data());
}

void TokenDraws::Download(int place) {
  const Place& of = places_[place];
  device_.CopyOut(of.pinned, tokens_.data(), of.drawn.size_bytes());
}

void TokenDraws::Collect(int place, bool good) {
  Place& of = places_[place];
  if (good && !of.drawn.empty()) {
    std::memcpy(of.drawn.data(), of.pinned, of.drawn.size_bytes());
  }
  of.drawn = {};
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
