#include "worker/split_rehearsal.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/median.h"

namespace echelon {

namespace {

// What disturbs a machine lasts for milliseconds: the ways are timed in pairs, one behind the other
// over so long each, in layers, and the median of the pairs' ratios counts.
constexpr double kPassSeconds = 3e-3;
constexpr int kPassLayersMax = 4;
// Fewer pairs where all of them were as far as kClear on one side of what decides, or have taken
// kPointSeconds.
constexpr int kPairsMin = 3, kPairsMax = 9;
constexpr double kClear = 0.1;
constexpr double kPointSeconds = 0.1;
// Of all; numbers of rows that would go beyond behave as the greatest before them.
constexpr double kSecondsMax = 0.5;

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

bool AllAreClear(const std::vector<double>& ratios) {
  const auto [least, greatest] = std::minmax_element(ratios.begin(), ratios.end());
  const double even = 1.0 - kSplitGainMin;
  return *greatest < even - kClear || *least > even + kClear;
}

// Rows that are computed whole and cut, on one stage. All ranks see the same times.
class Rehearsal {
 public:
  Rehearsal(const BatchLayout& batch, int64_t cut, int layers_of_stage, Decoder& decoder,
            Communicator& tp, const Clock& clock)
      : whole_{batch.step_rows()},
        parts_{batch.step_rows(0, cut), batch.step_rows(cut, batch.rows())},
        layers_of_stage_(layers_of_stage),
        decoder_(decoder),
        tp_(tp),
        clock_(clock) {}

  double spent() const { return spent_; }  // seconds that were timed

  // Seconds a layer.
  SplitTimes Run() {
    RunPass(1, 1, false);  // windows open, the ranks come together
    const SplitTimes one = RunPass(layers_of_stage_ - 1, 1, true);
    const double layers_wanted = std::ceil(kPassSeconds / std::max(one.whole_s, 1e-6));
    const int layers = static_cast<int>(
        std::clamp<double>(layers_wanted, 1, std::min(kPassLayersMax, layers_of_stage_ - 1)));
    // At the stage's beginning and at its end in turn: a step finds no weights in a cache that it
    // used last, and a schedule may differ from layer to layer.
    const int places[] = {1, layers_of_stage_ - layers};
    std::vector<double> whole, ratios;
    for (int pass = 0; pass < kPairsMax; ++pass) {
      const SplitTimes seen = RunPass(places[pass % 2], layers, pass / 2 % 2 == 0);
      whole.push_back(seen.whole_s / layers);
      ratios.push_back(seen.parts_s / seen.whole_s);
      spent_ += seen.whole_s + seen.parts_s;
      if (pass + 1 >= kPairsMin && (spent_ > kPointSeconds || AllAreClear(ratios))) break;
    }
    const double whole_s = MedianOf(std::move(whole));
    return {static_cast<int>(whole_[0].ids.size()), whole_s, whole_s * MedianOf(std::move(ratios))};
  }

 private:
  SplitTimes RunPass(int layer, int layers, bool whole_first) {
    SplitTimes mine;
    for (const bool whole : {whole_first, !whole_first}) {
      (whole ? mine.whole_s : mine.parts_s) =
          decoder_.Rehearse(whole ? whole_ : parts_, layer, layers, clock_);
    }
    return SlowestOf(mine, tp_);
  }

  const std::vector<StepRows> whole_, parts_;
  const int layers_of_stage_;
  Decoder& decoder_;
  Communicator& tp_;
  const Clock& clock_;
  double spent_ = 0.0;
};

}  // namespace

SplitTimes SlowestOf(const SplitTimes& mine, Communicator& group) {
  std::vector<SplitTimes> all(group.size());
  group.Wait(group.AllGather(&mine, all.data(), sizeof(mine)));
  SplitTimes slowest = mine;
  for (const SplitTimes& other : all) {
    slowest.whole_s = std::max(slowest.whole_s, other.whole_s);
    slowest.parts_s = std::max(slowest.parts_s, other.parts_s);
  }
  return slowest;
}

std::vector<SplitTimes> RehearseSplit(const ModelConfig& model, const RankPart& part,
                                      Decoder& decoder, const KvCache& cache, Communicator& tp,
                                      int rows_max, const Clock& clock) {
  const auto layers = static_cast<int>(part.layers.size());
  if (layers < 2) return {};
  TokenSplit even(model, TokenSplitMode::kOn, {});
  const int page_tokens = cache.shape().page_tokens;
  std::vector<SplitTimes> times;
  double spent = 0.0;
  for (const int rows : kSplitRows) {
    if (rows > rows_max || rows > cache.shape().pages * page_tokens) break;
    if (!times.empty()) {
      const SplitTimes& last = times.back();
      // Latency costs any number of rows the same, bytes and multiply-adds each row: between these.
      const double longer = std::sqrt(static_cast<double>(rows) / last.rows);
      if (spent + kPairsMin * (last.whole_s + last.parts_s) * longer > kSecondsMax) break;
    }
    const BatchLayout batch = Prompt(rows, page_tokens);
    Rehearsal rehearsal(batch, even.Begin(batch), layers, decoder, tp, clock);
    times.push_back(rehearsal.Run());
    spent += rehearsal.spent();
  }
  return times;
}

}  // namespace echelon
