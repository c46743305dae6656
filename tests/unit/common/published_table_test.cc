// The cost model against figures that others measured: Llama-3 70B on H100s, prompt 1024, 512 new
// tokens, from the plot script of the Ladder Residual authors' repository
// (github.com/mayank31398/ladder-residual-inference, tools/plot-70b.py; Zhang et al. 2025). Their
// benchmark counts batch * 512 tokens over prefill and decode together, and its attention reads a
// cache of 1536 positions in every decode step. The constants in presets.cc are fitted on the rows
// of tp = 2 and 4 alone; tp = 8 is held out.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <tuple>
#include <vector>

#include "common/median.h"
#include "common/planner/presets.h"
#include "common/planner/step_cost.h"

namespace echelon {
namespace {

enum class Variant { kStandard, kLadder, kParallel, kUpperBound };
struct Row {
  bool nvlink;
  int batch;
  Variant variant;
  double tokens_s[3];  // tp = 2, 4, 8; 0 = not published
};
constexpr Row kPublished[] = {
    {true, 1, Variant::kStandard, {35.42, 59.41, 77.39}},
    {true, 1, Variant::kLadder, {36.69, 67.51, 101.22}},
    {true, 1, Variant::kParallel, {36.67, 65.40, 94.22}},
    {true, 1, Variant::kUpperBound, {38.24, 69.04, 110.59}},
    {true, 4, Variant::kStandard, {120.58, 185.01, 258.56}},
    {true, 4, Variant::kLadder, {126.09, 204.30, 331.45}},
    {true, 4, Variant::kParallel, {123.66, 201.62, 307.34}},
    {true, 4, Variant::kUpperBound, {130.77, 213.73, 355.80}},
    {true, 16, Variant::kStandard, {0, 585.23, 843.15}},
    {true, 16, Variant::kLadder, {0, 635.98, 1003.52}},
    {true, 16, Variant::kParallel, {0, 628.23, 973.74}},
    {true, 16, Variant::kUpperBound, {0, 665.07, 1109.65}},
    {true, 64, Variant::kStandard, {0, 1249.67, 1940.99}},
    {true, 64, Variant::kLadder, {0, 1358.65, 2242.10}},
    {true, 64, Variant::kParallel, {0, 1311.54, 2259.38}},
    {true, 64, Variant::kUpperBound, {0, 1433.53, 2474.49}},
    {false, 1, Variant::kStandard, {33.77, 53.35, 51.66}},
    {false, 1, Variant::kLadder, {36.94, 66.60, 82.59}},
    {false, 1, Variant::kParallel, {36.12, 61.93, 72.36}},
    {false, 4, Variant::kStandard, {106.60, 158.77, 173.62}},
    {false, 4, Variant::kLadder, {125.55, 204.24, 271.82}},
    {false, 4, Variant::kParallel, {116.83, 183.53, 241.08}},
    {false, 16, Variant::kStandard, {0, 518.41, 546.68}},
    {false, 16, Variant::kLadder, {0, 598.71, 738.56}},
    {false, 16, Variant::kParallel, {0, 583.48, 744.33}},
    {false, 64, Variant::kStandard, {0, 1199.62, 1454.42}},
    {false, 64, Variant::kLadder, {0, 1313.44, 1864.05}},
    {false, 64, Variant::kParallel, {0, 1276.66, 1873.71}},
};

// What was fitted: the processor's and the links' figures, each a factor of its preset.
struct Constants {
  HostSpec host = H100Host();
  Link nvlink = NvlinkInside();
  Link host_memory = HostMemoryInside();

  std::vector<double*> All() {
    ProcessorRates& r = host.all;
    return {&r.bytes_s,
            &r.macs_s,
            &r.kv_bytes_s,
            &r.block_s,
            &r.parallel_saves,
            &nvlink.latency_s,
            &nvlink.step_s,
            &nvlink.bytes_s,
            &host_memory.latency_s,
            &host_memory.step_s,
            &host_memory.bytes_s,
            &nvlink.hidden};
  }
  void Settle() {  // one figure for what is one thing
    host.all.attention_macs_s = host.all.macs_s;
    host_memory.hidden = nvlink.hidden;
    host.one = host.all;
  }
};

double TokensPerSecond(const Constants& constants, const Row& row, int tp) {
  ModelConfig model = *NamedModel("llama-3-70b");
  if (row.variant == Variant::kParallel) model.schedule = ScheduleKind::kParallel;
  if (row.variant == Variant::kLadder) {
    model.schedule = ScheduleKind::kLadder;
    for (LayerConfig& layer : model.layers) layer.ladder = true;
  }
  Link link = row.nvlink ? constants.nvlink : constants.host_memory;
  if (row.variant == Variant::kUpperBound) link.latency_s = link.step_s = 0.0, link.bytes_s = 1e30;
  const Cluster cluster = UniformCluster(constants.host, 1, link, link);
  const ParallelLayout layout{.tp = tp};
  CostInputs inputs{model, layout, cluster};
  inputs.activation_bytes = 2.0;
  const double batch = row.batch;
  const double prefill = CostOfStep(inputs, {batch, 1024, 0, true, 0})[0].total();
  const double decode = CostOfStep(inputs, {batch, 1, 1280, true, 1536})[0].total();
  return batch * 512 / (prefill + 511 * decode);
}

double Loss(const Constants& constants) {
  double sum = 0.0;
  for (const Row& row : kPublished) {
    for (const int tp : {2, 4}) {
      const double published = row.tokens_s[tp / 4];
      if (published == 0) continue;
      const double error = std::log(TokensPerSecond(constants, row, tp) / published);
      sum += error * error;
    }
  }
  return sum;
}

// The constants are what a least-squares fit on tp = 2 and 4 gives: no step of 2 % in any of them
// comes nearer.
TEST(PublishedTable, ConstantsAreTheFitOfTwoAndFourRanks) {
  Constants fitted;
  const double loss = Loss(fitted);
  for (size_t i = 0; i < fitted.All().size(); ++i) {
    for (const double factor : {0.98, 1.02}) {
      Constants moved;
      *moved.All()[i] *= factor;
      moved.Settle();
      EXPECT_GE(Loss(moved), loss * 0.999) << "constant " << i << " times " << factor;
    }
  }
}

TEST(PublishedTable, EightRanksArePredicted) {
  const Constants constants;
  static constexpr const char* kNames[] = {"standard", "ladder", "parallel", "upper bound"};
  std::vector<double> errors;
  std::map<std::tuple<bool, int, Variant>, double> predicted;
  for (const Row& row : kPublished) {
    const double tokens_s = TokensPerSecond(constants, row, 8);
    predicted[{row.nvlink, row.batch, row.variant}] = tokens_s;
    errors.push_back(std::abs(tokens_s / row.tokens_s[2] - 1));
    std::printf("%-10s batch %2d %-11s published %8.2f predicted %8.2f (%+.1f %%)\n",
                row.nvlink ? "NVLink" : "no NVLink", row.batch,
                kNames[static_cast<int>(row.variant)], row.tokens_s[2], tokens_s,
                100 * (tokens_s / row.tokens_s[2] - 1));
  }
  std::printf("held out, tp = 8: median error %.1f %%\n", 100 * MedianOf(errors));
  EXPECT_LE(MedianOf(errors), 0.10);
  for (const Row& ladder : kPublished) {
    if (ladder.variant != Variant::kLadder) continue;
    for (const Row& standard : kPublished) {
      if (standard.variant != Variant::kStandard || standard.nvlink != ladder.nvlink ||
          standard.batch != ladder.batch) {
        continue;
      }
      const double published = ladder.tokens_s[2] / standard.tokens_s[2];
      const double ratio = predicted[{ladder.nvlink, ladder.batch, Variant::kLadder}] /
                           predicted[{ladder.nvlink, ladder.batch, Variant::kStandard}];
      EXPECT_NEAR(ratio, published, ladder.nvlink ? 0.1 : 0.2) << "batch " << ladder.batch;
    }
  }
}

}  // namespace
}  // namespace echelon
