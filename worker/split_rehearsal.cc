#include "worker/split_rehearsal.h"

#include <algorithm>
#include <numeric>

namespace echelon {

namespace {

// With few rows a layer is short, and what the system adds to a message weighs more.
struct Point {
  int rows, layers;
};
constexpr Point kPoints[] = {{2, 2}, {8, 4}, {32, 1}, {128, 1}};
// Each way, the first at the stage's beginning, the second at its end, and so on: a step finds no
// weights in a cache that it used last, and a schedule may differ from layer to layer. The longest
// of its times is left out: what disturbs a machine only adds.
constexpr int kPassesMin = 2, kPassesMax = 4;
constexpr double kPassesSeconds = 0.03;  // more passes while they have not taken so long
// Where as many rows as this, or more, take so long a layer, more rows behave alike: then bytes and
// multiply-adds dominate.
constexpr int kEnoughRows = 32;
constexpr double kEnoughSeconds = 5e-3;

// The beginning of a prompt, in the first pages of the cache.
BatchLayout Prompt(int rows, int page_tokens) {
  BatchLayout batch;
  batch.ids.assign(rows, 0);
  batch.positions.resize(rows);
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.sequences.assign(rows, 0);
  batch.pages.resize((rows + page_tokens - 1) / page_tokens);
  std::iota(batch.pages.begin(), batch.pages.end(), 0);
  batch.page_begin = {0, static_cast<int32_t>(batch.pages.size())};
  batch.steps = {{0, 0, rows}};
  return batch;
}

struct Pass {
  double whole_s = 0.0, parts_s = 0.0;
};

Pass SlowestOf(const Pass& mine, Communicator& tp) {
  std::vector<Pass> all(tp.size());
  tp.Wait(tp.AllGather(&mine, all.data(), sizeof(mine)));
  Pass slowest;
  for (const Pass& other : all) {
    slowest.whole_s = std::max(slowest.whole_s, other.whole_s);
    slowest.parts_s = std::max(slowest.parts_s, other.parts_s);
  }
  return slowest;
}

// The mean of all but the longest.
double MeanOf(const std::vector<Pass>& passes, double Pass::*way) {
  double sum = 0.0, longest = 0.0;
  for (const Pass& pass : passes) {
    sum += pass.*way;
    longest = std::max(longest, pass.*way);
  }
  return (sum - longest) / static_cast<double>(passes.size() - 1);
}

SplitTimes Time(const BatchLayout& batch, int64_t cut, int layers, int layers_of_stage,
                Decoder& decoder, Communicator& tp) {
  const StepRows whole[] = {batch.step_rows()};
  const StepRows parts[] = {batch.step_rows(0, cut), batch.step_rows(cut, batch.rows())};
  const int places[] = {1, layers_of_stage - layers};
  decoder.Rehearse(whole, places[0], 1);  // windows open, the ranks come together
  std::vector<Pass> passes;
  double spent = 0.0;
  while (passes.size() < kPassesMin || (passes.size() < kPassesMax && spent < kPassesSeconds)) {
    const int layer = places[passes.size() % 2];
    Pass mine;
    mine.whole_s = decoder.Rehearse(whole, layer, layers);
    mine.parts_s = decoder.Rehearse(parts, layer, layers);
    passes.push_back(SlowestOf(mine, tp));
    spent += passes.back().whole_s + passes.back().parts_s;
  }
  const double each = 1.0 / layers;
  return {static_cast<int>(batch.rows()), MeanOf(passes, &Pass::whole_s) * each,
          MeanOf(passes, &Pass::parts_s) * each};
}

}  // namespace

std::vector<SplitTimes> RehearseSplit(const ModelConfig& model, const RankPart& part,
                                      Decoder& decoder, const KvCache& cache, Communicator& tp,
                                      int rows_max) {
  const auto layers = static_cast<int>(part.layers.size());
  if (layers < 2) return {};
  const TokenSplit even(model, TokenSplitMode::kOn, {});
  const int page_tokens = cache.shape().page_tokens;
  std::vector<SplitTimes> times;
  for (const Point& point : kPoints) {
    if (point.rows > rows_max || point.rows > cache.shape().pages * page_tokens) break;
    const BatchLayout batch = Prompt(point.rows, page_tokens);
    times.push_back(
        Time(batch, even.CutOf(batch), std::min(point.layers, layers - 1), layers, decoder, tp));
    if (point.rows >= kEnoughRows && times.back().whole_s > kEnoughSeconds) break;
  }
  return times;
}

}  // namespace echelon
