// Speed of the CPU backend on the shapes of SmolLM2-135M (Q4_1 with a Q8_0 head), in multiply-adds
// and bytes a second, and as a share of the read bandwidth that the same threads reach on a block
// of the model's size. Options are Google Benchmark's, for example --benchmark_filter=Decode.

#include <benchmark/benchmark.h>

#include <algorithm>

#include "common/check.h"
#include "tests/bench/bench_model.h"

namespace echelon::bench {
namespace {

void Report(benchmark::State& state, double macs, double bytes, int threads) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["GMAC/s"] = Counter(macs / 1e9, rate);
  state.counters["GB/s"] = Counter(bytes / 1e9, rate);
  state.counters["of_bandwidth"] = Counter(bytes / ReadBandwidth(threads), rate);
}

// Arguments: shape, rows of activations, threads. As many copies of the weight as a model's size
// takes are used in turn, so that weights come from where a decode step finds them.
void MatMul(benchmark::State& state) {
  const MatrixShape& shape = kShapes[state.range(0)];
  const int64_t tokens = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  auto backend = MustMakeCpu(threads);
  std::vector<std::unique_ptr<Weight>> weights;
  weights.push_back(RandomWeight(*backend, shape));
  while (weights.size() * weights[0]->bytes() < kModelBytes) {
    weights.push_back(RandomWeight(*backend, shape));
  }
  auto in = backend->Allocate(tokens * shape.cols * sizeof(float));
  auto out = backend->Allocate(tokens * shape.rows * sizeof(float));
  CHECK(in.ok() && out.ok());
  const std::vector<float> ones(static_cast<size_t>(tokens * shape.cols), 1.0f);
  backend->Upload(ones.data(), (*in)->data(), ones.size() * sizeof(float));
  const Tensor x(static_cast<float*>((*in)->data()), tokens, shape.cols);
  const Tensor y(static_cast<float*>((*out)->data()), tokens, shape.rows);
  size_t turn = 0;
  for (auto _ : state) {
    backend->MatMul(x, *weights[turn++ % weights.size()], nullptr, y);
    backend->Synchronize();
  }
  state.SetLabel(shape.name);
  Report(state, static_cast<double>(tokens * shape.rows * shape.cols),
         static_cast<double>(weights[0]->bytes()), threads);
}
BENCHMARK(MatMul)
    ->ArgNames({"shape", "M", "threads"})
    ->ArgsProduct({{0, 1, 2, 3, 4}, {1, 2, 4, 8, 16, 32, 512}, {1, 2}})
    ->UseRealTime();

double MacsOfToken() {
  double macs = 0.0;
  for (int i = 0; i < 4; ++i) macs += static_cast<double>(kShapes[i].rows * kShapes[i].cols);
  return macs * kLayers;
}

// Arguments: context, threads. One token a step, as a single stream decodes.
void Decode(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0));
  const int threads = static_cast<int>(state.range(1));
  auto backend = MustMakeCpu(threads);
  BenchModel model(*backend, context + 1);
  for (int begin = 0; begin < context; begin += 512) {
    model.Step(begin, std::min(512, context - begin));
  }
  for (auto _ : state) model.Step(context, 1);
  state.counters["tokens/s"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
  Report(state, MacsOfToken() + double{kVocabulary} * kWidth,
         static_cast<double>(model.weight_bytes()), threads);
}
BENCHMARK(Decode)
    ->ArgNames({"context", "threads"})
    ->ArgsProduct({{128, 4096}, {1, 2}})
    ->UseRealTime();

// Arguments: tokens, threads. One prompt in one step.
void Prefill(benchmark::State& state) {
  const int tokens = static_cast<int>(state.range(0));
  const int threads = static_cast<int>(state.range(1));
  auto backend = MustMakeCpu(threads);
  BenchModel model(*backend, tokens);
  for (auto _ : state) model.Step(0, tokens);
  state.counters["tokens/s"] =
      benchmark::Counter(tokens, benchmark::Counter::kIsIterationInvariantRate);
  Report(state, MacsOfToken() * tokens + double{kVocabulary} * kWidth,
         static_cast<double>(model.weight_bytes()), threads);
}
BENCHMARK(Prefill)->ArgNames({"tokens", "threads"})->ArgsProduct({{512}, {1, 2}})->UseRealTime();

}  // namespace
}  // namespace echelon::bench

BENCHMARK_MAIN();
