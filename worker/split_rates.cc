#include "worker/split_rates.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <type_traits>
#include <vector>

#include "worker/mlp.h"
#include "worker/tensor_buffers.h"

namespace echelon {

namespace {

constexpr int kRepeats = 3;
constexpr int64_t kLargeValues = 32768;  // 128 KiB: bytes dominate, and 100 Mbit/s take 10 ms
constexpr int kWorkRows = 8;             // of the compute that an exchange is hidden behind

template <typename Body>
double SecondsOf(Body body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

using Repeats = std::array<double, kRepeats>;
double Median(Repeats seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRepeats / 2];
}
template <typename Body>
double MedianSeconds(Body body) {
  Repeats seconds;
  for (double& one : seconds) one = SecondsOf(body);
  return Median(seconds);
}

// Runs sub-blocks of this rank on zeros: all but the attention itself.
class Probe {
 public:
  Probe(const ModelConfig& model, const RankPart& part, const Weights& weights, Backend& backend)
      : model_(model), part_(part), weights_(weights), backend_(backend) {}

  Status Allocate() {
    constexpr int kRowsMax = SplitRates::kRows.back();
    const int64_t d = model_.d_model, head_dim = model_.head_dim;
    const auto make = [&](int64_t cols) -> Result<Tensor> {
      ASSIGN_OR_RETURN(const Tensor tensor, tensors_.New(kRowsMax, cols));
      const std::vector<float> zeros(static_cast<size_t>(kRowsMax * cols), 0.0f);
      backend_.Upload(zeros.data(), tensor.data, zeros.size() * sizeof(float));
      backend_.Synchronize();
      return tensor;
    };
    ASSIGN_OR_RETURN(stream_, make(d));
    ASSIGN_OR_RETURN(normed_, make(d));
    ASSIGN_OR_RETURN(out_, make(d));
    ASSIGN_OR_RETURN(qkv_, make((part_.heads() + 2 * part_.kv_heads()) * head_dim));
    ASSIGN_OR_RETURN(context_, make(part_.heads() * head_dim));
    ASSIGN_OR_RETURN(gate_up_, make(2 * part_.ff()));
    return {};
  }

  void Attention(int layer, int rows) {
    const LayerWeights& w = weights_.layers[layer];
    const Tensor x = normed_.Rows(0, rows);
    backend_.RmsNorm(stream_.Rows(0, rows), w.attention_norm.get(), model_.norm_eps, x);
    backend_.MatMul(x, *w.qkv, w.qkv_bias.get(), qkv_.Rows(0, rows));
    backend_.MatMul(context_.Rows(0, rows), *w.attention_out, nullptr, out_.Rows(0, rows));
    Add(rows);
  }
  void Mlp(int layer, int rows) {
    if (part_.ff() == 0) return;
    const LayerWeights& w = weights_.layers[layer];
    const Tensor x = normed_.Rows(0, rows);
    backend_.RmsNorm(stream_.Rows(0, rows), w.mlp_norm.get(), model_.norm_eps, x);
    RunMlp(model_, w, x, gate_up_, backend_, out_.Rows(0, rows));
    Add(rows);
  }

  // Medians over layers that were not used for a while, each run twice.
  template <typename Run>
  SplitRates::Block Times(Run run) {
    SplitRates::Block block;
    for (size_t i = 0; i < SplitRates::kRows.size(); ++i) {
      const int rows = SplitRates::kRows[i];
      Repeats cold, warm;
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        layer_ = (layer_ + 1) % static_cast<int>(weights_.layers.size());
        cold[repeat] = SecondsOf([&] { run(layer_, rows); });
        warm[repeat] = SecondsOf([&] { run(layer_, rows); });
      }
      block.cold[i] = Median(cold);
      block.warm[i] = std::min(Median(cold), Median(warm));
    }
    return block;
  }

 private:
  void Add(int rows) {
    backend_.AddResidual(stream_.Rows(0, rows), out_.Rows(0, rows), 1.0f, nullptr, 0.0f);
    backend_.Synchronize();
  }

  const ModelConfig& model_;
  const RankPart& part_;
  const Weights& weights_;
  Backend& backend_;
  TensorBuffers tensors_{backend_};
  Tensor stream_, normed_, out_, qkv_, context_, gate_up_;
  int layer_ = 0;
};

void MeasureLink(Probe& probe, Communicator& tp, int64_t d_model, SplitRates& rates) {
  const int64_t large = std::max(kLargeValues, d_model);
  std::vector<float> data(static_cast<size_t>(large), 0.0f);
  const auto reduce = [&](int64_t count) { tp.Wait(tp.AllReduceSum(data.data(), count)); };
  reduce(large);  // connections open their windows, the ranks come together
  const double small_s = MedianSeconds([&] { reduce(d_model); });
  const double large_s = MedianSeconds([&] { reduce(large); });
  rates.byte_s = std::max(0.0, large_s - small_s) /
                 static_cast<double>(std::max<int64_t>(1, large - d_model) * sizeof(float));
  const double small_bytes = static_cast<double>(d_model) * sizeof(float);
  rates.latency_s = std::max(0.0, small_s - small_bytes * rates.byte_s);
  const double unit_s = MedianSeconds([&] { probe.Attention(0, kWorkRows); });
  const int units = static_cast<int>(std::clamp(std::ceil(large_s / unit_s), 1.0, 1e4));
  const auto work = [&] {
    for (int i = 0; i < units; ++i) probe.Attention(0, kWorkRows);
  };
  const double work_s = MedianSeconds(work);
  reduce(large);  // together again
  const double both_s = MedianSeconds([&] {
    const CommHandle handle = tp.AllReduceSum(data.data(), large);
    work();
    tp.Wait(handle);
  });
  rates.hidden = std::clamp((work_s + large_s - both_s) / std::min(work_s, large_s), 0.0, 1.0);
}

// All numbers of a rank; the slowest of each counts.
SplitRates Slowest(const SplitRates& mine, Communicator& tp) {
  static_assert(std::is_trivially_copyable_v<SplitRates>);
  std::vector<SplitRates> all(tp.size());
  tp.Wait(tp.AllGather(&mine, all.data(), sizeof(mine)));
  SplitRates most = all[0];
  const auto keep_block = [](SplitRates::Block& most, const SplitRates::Block& other) {
    for (size_t i = 0; i < most.cold.size(); ++i) {
      most.cold[i] = std::max(most.cold[i], other.cold[i]);
      most.warm[i] = std::max(most.warm[i], other.warm[i]);
    }
  };
  for (const SplitRates& other : all) {
    keep_block(most.attention, other.attention);
    keep_block(most.mlp, other.mlp);
    most.position_s = std::max(most.position_s, other.position_s);
    most.latency_s = std::max(most.latency_s, other.latency_s);
    most.byte_s = std::max(most.byte_s, other.byte_s);
    most.hidden = std::min(most.hidden, other.hidden);
  }
  return most;
}

}  // namespace

double SplitRates::Block::At(const std::array<double, kRows.size()>& seconds, double rows) {
  size_t i = 0;
  while (i + 2 < kRows.size() && rows > kRows[i + 1]) ++i;
  const double along = (rows - kRows[i]) / (kRows[i + 1] - kRows[i]);
  return seconds[i] + along * (seconds[i + 1] - seconds[i]);
}

Result<SplitRates> MeasureSplitRates(const ModelConfig& model, const RankPart& part,
                                     const Weights& weights, Backend& backend, Communicator& tp) {
  Probe probe(model, part, weights, backend);
  RETURN_IF_ERROR(probe.Allocate());
  SplitRates rates;
  rates.attention = probe.Times([&](int layer, int rows) { probe.Attention(layer, rows); });
  rates.mlp = probe.Times([&](int layer, int rows) { probe.Mlp(layer, rows); });
  const double d = model.d_model, width = static_cast<double>(part.heads()) * model.head_dim;
  const double macs =
      d * (2 * width + 2.0 * part.kv_heads() * model.head_dim) * SplitRates::kRows.back();
  rates.position_s = 2 * width * kAttentionMacCost * rates.attention.warm.back() / macs;
  MeasureLink(probe, tp, model.d_model, rates);
  return Slowest(rates, tp);
}

}  // namespace echelon
