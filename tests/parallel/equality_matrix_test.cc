// The equality matrix: every product of tp, pp and sp of up to 8 ranks (threads of this process) on
// tiny random models of every family and schedule, odd head counts among them, on the reference and
// the CPU backend. tests/cuda/matrix_test.cc is the same on devices, equality_check.h what holds.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/support/worker/equality_check.h"

namespace echelon {
namespace {

constexpr int kRanksMax = 8;

// One stage first: what the others of the same tp and sp are compared with.
std::vector<ParallelLayout> Products(const ModelConfig& model) {
  std::vector<ParallelLayout> all;
  for (int pp = 1; pp <= std::min(kRanksMax, model.n_layers()); ++pp) {
    for (int tp = 1; tp <= std::min(kRanksMax / pp, model.n_heads); ++tp) {
      for (int sp = 1; sp <= kRanksMax / pp / tp; ++sp) {
        ParallelLayout layout;
        layout.tp = tp;
        layout.pp = pp;
        layout.sp = sp;
        all.push_back(layout);
      }
    }
  }
  return all;
}

class EqualityMatrix : public testing::LayoutTest {};

TEST_P(EqualityMatrix, EveryProductOfUpToEightRanks) {
  testing::CheckEquality(GetParam(), groups_, Products(groups_.model()),
                         [&](const ParallelLayout& layout) { return Group(layout); });
}

INSTANTIATE_TEST_SUITE_P(Models, EqualityMatrix, ::testing::ValuesIn(testing::LayoutModels()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace echelon
