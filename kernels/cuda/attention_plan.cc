#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace echelon::cuda {

namespace {

// The places row t sees; none where end <= first.
AttentionRow SeenBy(const AttentionArgs& args, int64_t t) {
  if (args.begin.empty()) {
    const int32_t position = args.rows.positions[t];
    // A row that fills up a step.
    if (position == 0 && args.rows.pages[args.rows.page_begin[args.rows.sequences[t]]] < 0) {
      return {};
    }
    const int32_t first = args.window > 0 ? std::max(0, position - args.window + 1) : 0;
    return {first, position + 1, 0, 0};
  }
  return {std::max(0, args.begin[t]), args.end[t], 0, args.begin[t] < 0 ? 1 : 0};
}

int32_t SplitOf(int32_t place) { return place / kAttentionSplit; }
int64_t SplitsOf(const AttentionRow& row) { return SplitOf(row.end - 1) - SplitOf(row.first) + 1; }

// Neighbouring rows of one sequence that see anything.
struct Run {
  int32_t begin, end;
  int64_t Units(int tokens) const { return (end - begin + tokens - 1) / tokens; }
};

std::vector<Run> RunsOf(const AttentionArgs& args, const std::vector<AttentionRow>& rows) {
  std::vector<Run> runs;
  for (int32_t t = 0; t < static_cast<int32_t>(rows.size()); ++t) {
    if (rows[t].end <= rows[t].first) continue;
    const bool goes_on = !runs.empty() && runs.back().end == t &&
                         args.rows.sequences[t] == args.rows.sequences[t - 1];
    if (!goes_on) runs.push_back({t, t});
    runs.back().end = t + 1;
  }
  return runs;
}

// The unit of rows [begin, end), at all they see.
AttentionUnit UnitOf(const std::vector<AttentionRow>& rows, int32_t begin, int32_t end) {
  AttentionUnit unit = {begin, end - begin, rows[begin].first, rows[begin].end};
  for (int32_t t = begin + 1; t < end; ++t) {
    unit.first = std::min(unit.first, rows[t].first);
    unit.end = std::max(unit.end, rows[t].end);
  }
  return unit;
}

// Adds the units of rows [begin, end) to a pass that has room for them, fewer rows where they do
// not fit together.
void AddSplits(AttentionPlan& plan, int32_t begin, int32_t end, int64_t partial_rows_max) {
  int64_t partials = 0;
  for (int32_t t = begin; t < end; ++t) partials += SplitsOf(plan.rows[t]);
  if (partials > partial_rows_max && end - begin > 1) {
    const int32_t middle = begin + (end - begin) / 2;
    AddSplits(plan, begin, middle, partial_rows_max);
    return AddSplits(plan, middle, end, partial_rows_max);
  }
  if (plan.passes.empty() || plan.passes.back().partial_rows + partials > partial_rows_max) {
    plan.passes.emplace_back().merge_begin = {0};
  }
  AttentionPass& pass = plan.passes.back();
  for (int32_t t = begin; t < end; ++t) {
    AttentionRow& row = plan.rows[t];
    row.partial = pass.merge_begin.back();
    pass.merge_begin.push_back(row.partial + static_cast<int32_t>(SplitsOf(row)));
    pass.row_of.push_back(t);
    pass.continued.push_back(row.continued);
  }
  pass.partial_rows = pass.merge_begin.back();
  const AttentionUnit all = UnitOf(plan.rows, begin, end);
  for (int32_t split = SplitOf(all.first); split <= SplitOf(all.end - 1); ++split) {
    AttentionUnit unit = all;
    unit.first = std::max(all.first, split * kAttentionSplit);
    unit.end = std::min(all.end, (split + 1) * kAttentionSplit);
    const bool seen =
        std::any_of(plan.rows.begin() + begin, plan.rows.begin() + end,
                    [&](const auto& row) { return row.first < unit.end && row.end > unit.first; });
    if (seen) pass.units.push_back(unit);
  }
}

}  // namespace

void AttentionPass::FillUp(int64_t rows, int64_t partial_rows_max) {
  units.resize(std::bit_ceil(std::max<size_t>(units.size(), 16)), {-1, 0, 0, 0});
  const auto filled = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(partial_rows)));
  partial_rows = std::max(partial_rows, std::min(filled, partial_rows_max));
  merge_begin.resize(static_cast<size_t>(rows + 1), merge_begin.back());
  row_of.resize(static_cast<size_t>(rows), -1);
  continued.resize(static_cast<size_t>(rows), 0);
}

AttentionPlan PlanAttention(const AttentionArgs& args, const AttentionLimits& limits) {
  AttentionPlan plan;
  for (int64_t t = 0; t < args.q.rows; ++t) plan.rows.push_back(SeenBy(args, t));
  const std::vector<Run> runs = RunsOf(args, plan.rows);
  // Runs that fill at least half a unit may be attended whole.
  const auto fills = [&](const Run& run) {
    return limits.whole_tokens > 0 && 2 * (run.end - run.begin) >= limits.whole_tokens;
  };
  int64_t whole_units = 0;
  for (const Run& run : runs) whole_units += fills(run) ? run.Units(limits.whole_tokens) : 0;
  const bool whole = whole_units >= limits.whole_units_min;
  for (const Run& run : runs) {
    const bool is_whole = whole && fills(run);
    const int tokens = is_whole ? limits.whole_tokens : limits.split_tokens;
    for (int32_t begin = run.begin; begin < run.end; begin += tokens) {
      const int32_t end = std::min(run.end, begin + tokens);
      if (is_whole) {
        plan.whole.push_back(UnitOf(plan.rows, begin, end));
      } else {
        AddSplits(plan, begin, end, limits.partial_rows_max);
      }
    }
  }
  std::ranges::sort(plan.whole, std::greater(),
                    [](const AttentionUnit& unit) { return unit.end - unit.first; });
  return plan;
}

}  // namespace echelon::cuda
