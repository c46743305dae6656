#include "worker/token_split.h"

#include <algorithm>
#include <numeric>

#include "common/planner/step_cost.h"
#include "common/strings.h"
#include "worker/page_parts.h"

namespace echelon {

namespace {
// What must be gained, at least: rates measured in some milliseconds are that uncertain.
constexpr double kGainMin = 0.03;
// Rows of a long step are cut at a multiple of the largest tile of the kernels' rows.
constexpr int64_t kCutRows = 16;
}  // namespace

TokenSplit::TokenSplit(const ModelConfig& model, const RankPart& part, TokenSplitMode mode,
                       const SplitRates& rates)
    : model_(model), mode_(mode), rates_(rates) {
  for (const SubBlockStep& step : MakeSchedule(model).steps) {
    if (step.layer < part.layers.begin || step.layer >= part.layers.end) continue;
    steps_.push_back(step);
    const int window = model.layers[step.layer].window;
    if (std::count(windows_.begin(), windows_.end(), window) == 0) windows_.push_back(window);
  }
  const ShardElements elements = ElementsOf(model, ShardOf(model, {.tp = 1}, 0));
  row_macs_ = elements.attention + elements.mlp;
  position_macs_ = 2.0 * model.n_heads * model.head_dim * kAttentionMacCost;
}

int64_t TokenSplit::CutOf(const BatchLayout& batch) const {
  if (mode_ == TokenSplitMode::kOff || batch.rows() < 2) return 0;
  const int64_t cut = EvenCut(batch);
  return mode_ == TokenSplitMode::kOn || Pays(batch, cut) ? cut : 0;
}

int64_t TokenSplit::EvenCut(const BatchLayout& batch) const {
  std::vector<double> until(static_cast<size_t>(batch.rows()));  // cost of the rows up to each
  double cost = 0.0;
  for (size_t t = 0; t < until.size(); ++t) {
    int64_t seen = 0;
    for (const int window : windows_) seen += PositionsSeen(batch.positions[t], window).size();
    cost += row_macs_ + position_macs_ * static_cast<double>(seen) / windows_.size();
    until[t] = cost;
  }
  int64_t cut = std::lower_bound(until.begin(), until.end(), cost / 2) - until.begin() + 1;
  if (batch.rows() >= 4 * kCutRows) cut = (cut + kCutRows / 2) / kCutRows * kCutRows;
  return std::clamp<int64_t>(cut, 1, batch.rows() - 1);
}

TokenSplit::Load TokenSplit::LoadOf(const BatchLayout& batch, Range rows) const {
  Load load{static_cast<double>(rows.size()), std::vector<double>(windows_.size())};
  for (size_t w = 0; w < windows_.size(); ++w) {
    int64_t seen = 0;
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      seen += PositionsSeen(batch.positions[t], windows_[w]).size();
    }
    load.seen[w] = static_cast<double>(seen);
  }
  return load;
}

size_t TokenSplit::WindowOf(const SubBlockStep& step) const {
  const int window = model_.layers[step.layer].window;
  return std::find(windows_.begin(), windows_.end(), window) - windows_.begin();
}

// The time of a step whose parts take turns at every sub-block. With f all-reduces of a part in
// flight, a part's next sub-block but f waits for this one's all-reduce: f + 1 sub-blocks take at
// least the part's compute and its all-reduce. Nor is a sub-block shorter than all compute (with
// what does not hide of the all-reduces), or than the link needs for its bytes.
double TokenSplit::Seconds(std::span<const Load> parts) const {
  using Block = SplitRates::Block;
  double total = 0.0;
  for (const SubBlockStep& step : steps_) {
    const size_t window = WindowOf(step);
    double compute = 0.0, alone = 0.0, link = 0.0;
    for (const Load& part : parts) {
      const bool again = &part != &parts.front();
      double own = 0.0;
      if (step.kind != BlockKind::kMlp) {
        const Block& block = rates_.attention;
        own += Block::At(again ? block.warm : block.cold, part.rows) +
               part.seen[window] * rates_.position_s;
      }
      if (step.kind != BlockKind::kAttention) {
        own += Block::At(again ? rates_.mlp.warm : rates_.mlp.cold, part.rows);
      }
      compute += own;
      if (step.reduce == ReduceKind::kNone) continue;
      const double bytes_s = part.rows * model_.d_model * sizeof(float) * rates_.byte_s;
      const double reduce = rates_.latency_s + bytes_s;
      compute += (1.0 - rates_.hidden) * reduce;
      alone = std::max(alone, (own + reduce) / (step.in_flight_max + 1));
      link += rates_.hidden * bytes_s;
    }
    total += std::max({compute, alone, link});
  }
  return total;
}

bool TokenSplit::Pays(const BatchLayout& batch, int64_t cut) const {
  const Load parts[] = {LoadOf(batch, {0, cut}), LoadOf(batch, {cut, batch.rows()})};
  Load whole = parts[0];
  whole.rows += parts[1].rows;
  for (size_t w = 0; w < windows_.size(); ++w) whole.seen[w] += parts[1].seen[w];
  return Seconds(parts) < (1.0 - kGainMin) * Seconds({&whole, 1});
}

std::string TokenSplit::Describe() const {
  if (mode_ != TokenSplitMode::kAuto) return "";
  std::string from = "no step is split";
  BatchLayout prompt;
  for (int rows = 2; rows <= 4096; rows *= 2) {
    prompt.ids.resize(rows);
    prompt.positions.resize(rows);
    std::iota(prompt.positions.begin(), prompt.positions.end(), 0);
    if (CutOf(prompt) == 0) continue;
    from = StrCat("a prompt's steps are split from ", rows, " rows on");
    break;
  }
  return StrCat("an all-reduce takes ", static_cast<int64_t>(rates_.latency_s * 1e6), " us and ",
                static_cast<int64_t>(rates_.byte_s * 1e6 * (64 << 10)), " us for 64 KiB, of which ",
                static_cast<int>(rates_.hidden * 100), " % hides behind compute: ", from);
}

}  // namespace echelon
