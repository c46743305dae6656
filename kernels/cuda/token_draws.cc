#include "kernels/cuda/token_draws.h"

#include <algorithm>
#include <cstring>

namespace echelon::cuda {

TokenDraws::~TokenDraws() {
  if (pinned_ != nullptr) device_.runtime().FreePinned(pinned_);
}

DrawParams TokenDraws::Prepare(Tensor logits, std::span<const DrawRow> rows,
                               std::span<DrawnToken> drawn) {
  CHECK(drawn_.empty() || drawn_.data() == drawn.data());
  CHECK(drawn.size() == rows.size());
  for (const DrawRow& row : rows) CHECK(row.row >= 0 && row.row < logits.rows);
  DrawParams params = {};
  if (rows.empty()) return params;
  params.logits = logits;
  params.rows = staging_.Put(rows);
  params.count = static_cast<int64_t>(rows.size());
  params.slice_count = (logits.cols + kDrawSlice - 1) / kDrawSlice;
  const size_t token_bytes = (rows.size() * sizeof(DrawnToken) + 63) / 64 * 64;
  const auto slices = static_cast<size_t>(params.count * params.slice_count);
  const size_t slice_bytes = (slices * sizeof(DrawSlice) + 63) / 64 * 64;
  const bool search = std::ranges::any_of(rows, [](const DrawRow& row) {
    return row.inverse_temperature != 0.0 && (row.top_k > 0 || row.top_p < 1.0f);
  });
  const size_t search_bytes = search ? rows.size() * sizeof(DrawSearch) : 0;
  if (!Reserve(token_bytes + slice_bytes + search_bytes)) return params;
  params.drawn = reinterpret_cast<DrawnToken*>(memory_.data());
  params.slices = reinterpret_cast<DrawSlice*>(memory_.data() + token_bytes);
  if (search) {
    params.searches = reinterpret_cast<DrawSearch*>(memory_.data() + token_bytes + slice_bytes);
  }
  drawn_ = drawn;
  return params;
}

void TokenDraws::Download() { device_.CopyOut(pinned_, memory_.data(), drawn_.size_bytes()); }

void TokenDraws::Collect() {
  if (!drawn_.empty() && !device_.failure()) {
    std::memcpy(drawn_.data(), pinned_, drawn_.size_bytes());
  }
  drawn_ = {};
}

bool TokenDraws::Reserve(size_t bytes) {
  if (bytes <= memory_.bytes()) return true;
  if (!device_.Reserve(bytes, "drawn tokens", memory_)) return false;
  if (pinned_ != nullptr) device_.runtime().FreePinned(pinned_);
  pinned_ = nullptr;
  void* pinned = nullptr;
  if (!device_.AllocatePinned(bytes, &pinned)) return false;
  pinned_ = static_cast<char*>(pinned);
  return true;
}

}  // namespace echelon::cuda
