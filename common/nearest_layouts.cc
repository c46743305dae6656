#include "common/nearest_layouts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "common/strings.h"

namespace echelon {

namespace {

// Ranks in 64 bits: axes come from input and may multiply beyond an int.
int64_t Ranks(const ParallelLayout& layout) { return int64_t{layout.tp} * layout.pp * layout.sp; }

double Change(int wanted, int value) {
  return std::abs(std::log2(static_cast<double>(std::max(wanted, 1)) / value));
}

}  // namespace

LayoutLimits LimitsOf(const ModelConfig& model, int64_t context, int64_t page_tokens,
                      int64_t ranks) {
  const int64_t positions =
      context > 0 ? std::min<int64_t>(context, model.context_max) : model.context_max;
  LayoutLimits limits;
  limits.tp = model.n_heads;
  limits.pp = model.n_layers();
  limits.sp = static_cast<int>(std::max<int64_t>(1, (positions + page_tokens - 1) / page_tokens));
  limits.ranks = ranks > 0 ? ranks : std::numeric_limits<int64_t>::max();
  return limits;
}

std::vector<ParallelLayout> NearestLayouts(const ParallelLayout& wanted, const LayoutLimits& limits,
                                           int count) {
  const int64_t most = std::min(std::max<int64_t>(Ranks(wanted), 1), limits.ranks);
  using Candidate = std::tuple<int64_t, double, int, int, int>;  // ranks missing, change, axes
  std::vector<Candidate> candidates;
  const auto add = [&](int tp, int pp, int64_t sp) {
    if (sp < 1 || sp > limits.sp) return;
    const int64_t ranks = int64_t{tp} * pp * sp;
    if (ranks > most) return;
    const double change =
        Change(wanted.tp, tp) + Change(wanted.pp, pp) + Change(wanted.sp, static_cast<int>(sp));
    const Candidate candidate{most - ranks, change, tp, pp, static_cast<int>(sp)};
    if (std::find(candidates.begin(), candidates.end(), candidate) == candidates.end()) {
      candidates.push_back(candidate);
    }
    // A handful is kept: axes may have thousands of values.
    if (candidates.size() > 64) {
      std::sort(candidates.begin(), candidates.end());
      candidates.resize(static_cast<size_t>(count));
    }
  };
  for (int tp = 1; tp <= std::min<int64_t>(limits.tp, most); ++tp) {
    for (int pp = 1; pp <= std::min<int64_t>(limits.pp, most / tp); ++pp) {
      add(tp, pp, std::min<int64_t>(wanted.sp, limits.sp));
      add(tp, pp, std::min<int64_t>(most / tp / pp, limits.sp));
      add(tp, pp, 1);
    }
  }
  std::sort(candidates.begin(), candidates.end());
  std::vector<ParallelLayout> out;
  for (const auto& [missing, change, tp, pp, sp] : candidates) {
    if (static_cast<int>(out.size()) == count) break;
    out.push_back({.tp = tp, .pp = pp, .sp = sp});
  }
  return out;
}

std::string NearestText(const ParallelLayout& wanted, const LayoutLimits& limits) {
  std::vector<std::string> names;
  for (const ParallelLayout& l : NearestLayouts(wanted, limits)) {
    names.push_back(StrCat("tp ", l.tp, " x pp ", l.pp, " x sp ", l.sp));
  }
  return names.empty() ? "" : StrCat("; the nearest that work: ", Join(names, ", "));
}

Status CheckLayoutLimits(const ParallelLayout& wanted, const ModelConfig& model,
                         const LayoutLimits& limits) {
  const auto refuse = [&](const char* axis, int64_t value, int64_t most, const std::string& why) {
    return InvalidArgument(StrCat(axis, " = ", value, ": ", why, "; allowed are 1 to ", most,
                                  NearestText(wanted, limits)),
                           axis);
  };
  if (wanted.tp > limits.tp) {
    return refuse("tp", wanted.tp, limits.tp, StrCat("the model has ", limits.tp, " query heads"));
  }
  if (wanted.pp > limits.pp) {
    return refuse("pp", wanted.pp, limits.pp, StrCat("the model has ", limits.pp, " layers"));
  }
  if (wanted.sp > limits.sp) {
    return refuse("sp", wanted.sp, limits.sp,
                  StrCat("a sequence of ", model.name, " has at most ", limits.sp, " KV pages"));
  }
  if (Ranks(wanted) > limits.ranks) {
    return refuse("ranks", Ranks(wanted), limits.ranks,
                  StrCat("the hosts have ", limits.ranks, " slots"));
  }
  return {};
}

}  // namespace echelon
