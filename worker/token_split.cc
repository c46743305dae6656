#include "worker/token_split.h"

#include <algorithm>
#include <utility>

#include "common/shard_elements.h"
#include "common/step_rules.h"
#include "common/strings.h"
#include "kernels/exact_math.h"
#include "worker/page_parts.h"

namespace echelon {

namespace {
// Rows of a long step are cut at a multiple of the largest tile of the kernels' rows.
constexpr int64_t kCutRows = 16;
}  // namespace

TokenSplit::TokenSplit(const ModelConfig& model, TokenSplitMode mode, std::vector<SplitTimes> times)
    : mode_(mode), times_(std::move(times)) {
  for (const auto& layer : model.layers) windows_.push_back(layer.window);
  const ShardElements elements = ElementsOf(model, ShardOf(model, {.tp = 1}, 0));
  row_macs_ = (elements.attention + elements.mlp) * static_cast<double>(windows_.size());
  position_macs_ = 2.0 * model.n_heads * model.head_dim * kAttentionMacCost;
}

int64_t TokenSplit::CutOf(const BatchLayout& batch) const {
  if (mode_ == TokenSplitMode::kOff || batch.rows() < 2) return 0;
  if (mode_ == TokenSplitMode::kAuto && GainOf(batch.rows()) < kSplitGainMin) return 0;
  return EvenCut(batch);
}

int64_t TokenSplit::EvenCut(const BatchLayout& batch) const {
  std::vector<double> until(static_cast<size_t>(batch.rows()));  // cost of the rows up to each
  double cost = 0.0;
  for (size_t t = 0; t < until.size(); ++t) {
    int64_t seen = 0;
    for (const int window : windows_) seen += PositionsSeen(batch.positions[t], window).size();
    cost += row_macs_ + position_macs_ * static_cast<double>(seen);
    until[t] = cost;
  }
  int64_t cut = std::lower_bound(until.begin(), until.end(), cost / 2) - until.begin() + 1;
  if (batch.rows() >= 4 * kCutRows) cut = (cut + kCutRows / 2) / kCutRows * kCutRows;
  return std::clamp<int64_t>(cut, 1, batch.rows() - 1);
}

// Straight lines over the logarithm of the rows; beyond the points as at the nearest.
double TokenSplit::GainOf(int64_t rows) const {
  if (times_.empty()) return 0.0;
  size_t i = 0;
  while (i < times_.size() && times_[i].rows < rows) ++i;
  if (i == 0) return times_.front().gain();
  if (i == times_.size()) return times_.back().gain();
  const SplitTimes &below = times_[i - 1], &above = times_[i];
  // ExactLog: ranks decide alike whatever their hosts' libraries are.
  const double along = ExactLog(static_cast<double>(rows) / below.rows) /
                       ExactLog(static_cast<double>(above.rows) / below.rows);
  return below.gain() + along * (above.gain() - below.gain());
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
