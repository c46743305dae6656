#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <bit>

namespace echelon::cuda {

namespace {

struct Seen {
  int32_t first = 0, end = 0;
  bool continued = false;
};

// The places row t sees; none where end <= first.
Seen SeenBy(const AttentionArgs& args, int64_t t) {
  if (args.begin.empty()) {
    const int32_t position = args.rows.positions[t];
    // A row that fills up a step.
    if (position == 0 && args.rows.pages[args.rows.page_begin[args.rows.sequences[t]]] < 0) {
      return {};
    }
    const int32_t first = args.window > 0 ? std::max(0, position - args.window + 1) : 0;
    return {first, position + 1, false};
  }
  return {std::max(0, args.begin[t]), args.end[t], args.begin[t] < 0};
}

}  // namespace

void AttentionPass::FillUp(int64_t rows) {
  units.resize(std::bit_ceil(std::max<size_t>(units.size(), 16)), {-1, 0, 0, -1});
  merge_begin.resize(static_cast<size_t>(rows + 1), merge_begin.back());
  row_of.resize(static_cast<size_t>(rows), -1);
  continued.resize(static_cast<size_t>(rows), 0);
}

std::vector<AttentionPass> PlanAttention(const AttentionArgs& args, int64_t partial_rows_max) {
  std::vector<AttentionPass> passes;
  for (int64_t t = 0; t < args.q.rows; ++t) {
    const Seen seen = SeenBy(args, t);
    if (seen.end <= seen.first) continue;
    const int32_t first_split = seen.first / kAttentionSplit;
    const int32_t last_split = (seen.end - 1) / kAttentionSplit;
    const int64_t count = last_split - first_split + 1;
    if (passes.empty() ||
        static_cast<int64_t>(passes.back().units.size()) + count > partial_rows_max) {
      passes.emplace_back().merge_begin = {0};
    }
    AttentionPass& pass = passes.back();
    for (int32_t split = first_split; split <= last_split; ++split) {
      pass.units.push_back({static_cast<int32_t>(t), std::max(seen.first, split * kAttentionSplit),
                            std::min(seen.end, (split + 1) * kAttentionSplit),
                            static_cast<int32_t>(pass.units.size())});
    }
    pass.merge_begin.push_back(static_cast<int32_t>(pass.units.size()));
    pass.row_of.push_back(static_cast<int32_t>(t));
    pass.continued.push_back(seen.continued ? 1 : 0);
  }
  return passes;
}

}  // namespace echelon::cuda
