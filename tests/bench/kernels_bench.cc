// Speed of the CPU backend in multiply-adds and bytes a second, and as a share of the machine's
// limits, measured here too: the bandwidth at which the same threads read a block of the model's
// size, and the multiply-adds that a thread makes without waiting. Every weight format; the shapes
// of SmolLM2-135M (Q4_1 with a Q8_0 head). Options are Google Benchmark's, for example
// --benchmark_filter=Decode, --benchmark_filter=Gemv or Gemm.

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/median.h"
#include "common/strings.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/read_bandwidth.h"
#include "tests/bench/bench_model.h"
#include "tests/bench/peak.h"

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

// A weight of a format, times `tokens` rows, with the kernels of an instruction set.
void Multiply(benchmark::State& state, TensorFormat format, int64_t rows, int64_t cols,
              int64_t tokens, int threads, const char* isa) {
  const auto kernels = cpu::ChooseKernels(isa);
  if (!kernels.ok()) return state.SkipWithError(kernels.error().message.c_str());
  auto backend = std::make_unique<cpu::CpuBackend>(**kernels, threads);
  const auto weight = RandomWeight(*backend, {"", format, rows, cols});
  std::vector<float> x(static_cast<size_t>(tokens * cols), 1.0f);
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  WeightReader reader(threads, {weight.get()});
  std::vector<double> times, reads;
  for (auto _ : state) {
    times.push_back(SecondsOf([&] {
      backend->MatMul(Tensor(x.data(), tokens, cols), *weight, nullptr,
                      Tensor(y.data(), tokens, rows));
    }));
    state.SetIterationTime(times.back());
    reads.push_back(SecondsOf([&] { reader.Read(); }));
  }
  state.SetLabel(StrCat(InfoOf(format).name, " ", isa));
  const bool floats =
      format == TensorFormat::kF32 || format == TensorFormat::kF16 || format == TensorFormat::kBF16;
  const Peak& peak = PeakOfThread(isa);
  const double macs = static_cast<double>(tokens * rows * cols) / MedianOf(times);
  state.counters["GMAC/s"] = macs / 1e9;
  state.counters["of_peak"] = macs / ((floats ? peak.fmas : peak.dots) * threads);
  state.counters["GB/s"] = static_cast<double>(weight->bytes()) / MedianOf(times) / 1e9;
  state.counters["of_loads"] = MedianOf(reads) / MedianOf(times);
}

constexpr const char* kIsas[] = {"avx512", "avxvnni", "avx2"};

// Arguments: format, threads, instruction set (a place in kIsas). One token: a weight of the
// model's size comes from memory. of_loads: beside plain loads of the same bytes by as many
// threads, in turn.
void Gemv(benchmark::State& state) {
  const TensorFormatInfo& info = TensorFormats()[state.range(0)];
  const int64_t cols = 1536, row_bytes = cols / info.block_elements * info.block_bytes;
  const int64_t rows = static_cast<int64_t>(kModelBytes) / row_bytes / 16 * 16;
  Multiply(state, info.format, rows, cols, 1, static_cast<int>(state.range(1)),
           kIsas[state.range(2)]);
}
BENCHMARK(Gemv)
    ->ArgNames({"format", "threads", "isa"})
    ->ArgsProduct({benchmark::CreateDenseRange(0, std::ssize(TensorFormats()) - 1, 1),
                   {1, 2},
                   benchmark::CreateDenseRange(0, std::ssize(kIsas) - 1, 1)})
    ->Iterations(41)
    ->UseManualTime();

// Arguments: format, instruction set. 512 tokens, one thread: the weight stays in the second-level
// cache.
void Gemm(benchmark::State& state) {
  Multiply(state, TensorFormats()[state.range(0)].format, 576, 1536, 512, 1, kIsas[state.range(1)]);
}
BENCHMARK(Gemm)
    ->ArgNames({"format", "isa"})
    ->ArgsProduct({benchmark::CreateDenseRange(0, std::ssize(TensorFormats()) - 1, 1),
                   benchmark::CreateDenseRange(0, std::ssize(kIsas) - 1, 1)})
    ->Iterations(31)
    ->UseManualTime();

// As a compiler makes it of a simple loop for any x86-64.
float SumBy16Bytes(const float* values, int64_t n) {
  __m128 sums[4] = {};
  for (int64_t i = 0; i < n; i += 16) {
    for (int j = 0; j < 4; ++j) sums[j] = _mm_add_ps(sums[j], _mm_loadu_ps(values + i + 4 * j));
  }
  return _mm_cvtss_f32(_mm_add_ps(_mm_add_ps(sums[0], sums[1]), _mm_add_ps(sums[2], sums[3])));
}

// Arguments: MiB, bytes of a load. What two threads read, by the size of the block and the width of
// the loads: the table of docs/performance.md.
void ReadMemory(benchmark::State& state) {
  const auto width = state.range(1);
  SumFloats sum = SumBy16Bytes;
  if (width > 16) {
    const auto kernels = cpu::ChooseKernels(width == 64 ? "avx512" : "avx2");
    if (!kernels.ok()) return state.SkipWithError(kernels.error().message.c_str());
    sum = (*kernels)->sum_floats;
  }
  ThreadPool pool(2);
  double rate = 0.0;
  for (auto _ : state) {
    rate = MeasureReadBandwidth(pool, static_cast<size_t>(state.range(0)) << 20, sum);
  }
  state.counters["GB/s"] = rate / 1e9;
}
BENCHMARK(ReadMemory)
    ->ArgNames({"MiB", "load"})
    ->ArgsProduct({{32, 96, 128, 256}, {16, 32, 64}})
    ->Iterations(1)
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
