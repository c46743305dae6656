#include "worker/token_split.h"

#include <algorithm>
#include <utility>

#include "common/shard_elements.h"
#include "common/strings.h"
#include "worker/page_parts.h"

namespace echelon {

namespace {
// Rows of a long step are cut at a multiple of the largest tile of the kernels' rows.
constexpr int64_t kCutRows = 16;
}  // namespace

TokenSplit::TokenSplit(const ModelConfig& model, TokenSplitMode mode, std::vector<SplitTimes> times)
    : mode_(mode), times_(std::move(times)), choice_(times_) {
  for (const auto& layer : model.layers) windows_.push_back(layer.window);
  const ShardElements elements = ElementsOf(model, ShardOf(model, {.tp = 1}, 0));
  row_macs_ = (elements.attention + elements.mlp) * static_cast<double>(windows_.size());
  position_macs_ = 2.0 * model.n_heads * model.head_dim * kAttentionMacCost;
}

int64_t TokenSplit::Begin(const BatchLayout& batch) {
  choosing_ = mode_ == TokenSplitMode::kAuto && batch.rows() >= 2;
  if (mode_ == TokenSplitMode::kOff || batch.rows() < 2) return 0;
  const std::vector<double> until = CostUntil(batch);
  if (choosing_ && !choice_.Begin(batch.rows(), until.back())) return 0;
  int64_t cut = std::lower_bound(until.begin(), until.end(), until.back() / 2) - until.begin() + 1;
  if (batch.rows() >= 4 * kCutRows) cut = (cut + kCutRows / 2) / kCutRows * kCutRows;
  return std::clamp<int64_t>(cut, 1, batch.rows() - 1);
}

std::optional<SplitTimes> TokenSplit::Took(double seconds) {
  return choosing_ ? choice_.Took(seconds) : std::nullopt;
}

// Multiply-adds of the rows up to each, it included.
std::vector<double> TokenSplit::CostUntil(const BatchLayout& batch) const {
  std::vector<double> until(static_cast<size_t>(batch.rows()));
  double cost = 0.0;
  for (size_t t = 0; t < until.size(); ++t) {
    int64_t seen = 0;
    for (const int window : windows_) seen += PositionsSeen(batch.positions[t], window).size();
    cost += row_macs_ + position_macs_ * static_cast<double>(seen);
    until[t] = cost;
  }
  return until;
}

std::string TokenSplit::Describe() const {
  if (mode_ != TokenSplitMode::kAuto || times_.empty()) return "";
  std::vector<std::string> seen;
  for (const SplitTimes& times : times_) {
    seen.push_back(StrCat(times.rows, " rows ", static_cast<int64_t>(times.parts_s * 1e6), "/",
                          static_cast<int64_t>(times.whole_s * 1e6)));
  }
  return StrCat("a layer in two parts and in one, us: ", Join(seen, ", "));
}

}  // namespace echelon
