// Where a step's time goes, and whether ragged batches cost what their work costs. Ratios are
// printed as counters; each figure of a ratio is measured in turn, so that a slow moment of the
// machine hits all of them.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/check.h"
#include "common/median.h"
#include "common/strings.h"
#include "tests/bench/bench_model.h"

namespace echelon::bench {
namespace {

// Arguments: rows of a step, positions before them, threads. Rows are one prompt's, or with
// `decode` one of each of as many sequences. Counters: share of each op in the step, and the
// multiply-adds a second of attention (a score and a value each; a core's limit is 32 a cycle with
// AVX-512, 16 with AVX2).
void Profile(benchmark::State& state, bool decode) {
  const int rows = static_cast<int>(state.range(0));
  const int before = static_cast<int>(state.range(1));
  auto backend = MustMakeCpu(static_cast<int>(state.range(2)));
  const std::vector<int> contexts(decode ? rows : 1, decode ? before + 1 : before + rows);
  BenchModel model(*backend, contexts, rows);
  std::vector<Chunk> step;
  for (int s = 0; s < (decode ? rows : 1); ++s) step.push_back({s, before, decode ? 1 : rows});
  model.FillCache();
  model.Step(step);
  model.TakeSeconds();
  for (auto _ : state) model.Step(step);
  const auto seconds = model.TakeSeconds();
  const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  for (int op = 0; op < kOps; ++op) state.counters[kOpNames[op]] = seconds[op] / total;
  const double keys = decode ? before + 1 : before + 0.5 * (rows + 1);  // that a row sees
  state.counters["attention_GMAC/s"] =
      keys * rows * 2 * kWidth * kLayers / 1e9 / (seconds[kOpAttention] / state.iterations());
  state.counters["tokens/s"] =
      benchmark::Counter(rows, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK_CAPTURE(Profile, prompt, false)
    ->ArgNames({"rows", "before", "threads"})
    ->Args({512, 0, 1})
    ->Args({512, 0, 2})
    ->Args({512, 3584, 2})
    ->Args({512, 7488, 2})
    ->UseRealTime();
BENCHMARK_CAPTURE(Profile, decode, true)
    ->ArgNames({"rows", "before", "threads"})
    ->Args({1, 128, 1})
    ->Args({1, 128, 2})
    ->Args({1, 4096, 2})
    ->Args({32, 128, 2})
    ->UseRealTime();

// Arguments: context, threads. One stream's step beside what plain loads by as many threads take
// for the same weights, in turn. Counters: the loads' GB/s, milliseconds of a step and of its
// products alone, and the share of the loads' speed at which these read what they read (the step:
// weights, keys and values).
void DecodeShare(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0)), threads = static_cast<int>(state.range(1));
  auto backend = MustMakeCpu(threads);
  BenchModel model(*backend, context + 1);
  model.FillCache();
  WeightReader reader(threads, model.weights());
  const double weights = static_cast<double>(model.weight_bytes());
  const double bytes = weights + static_cast<double>(model.kv_bytes_per_token()) * (context + 1);
  std::vector<double> reads, products, steps;
  // Some of each: what one of them leaves in the caches is not what another would.
  const auto some = [](std::vector<double>& times, auto body) {
    body();
    for (int i = 0; i < 8; ++i) times.push_back(SecondsOf(body));
  };
  for (auto _ : state) {
    some(reads, [&] { reader.Read(); });
    some(products, [&] { model.MultiplyAll(); });
    some(steps, [&] { model.Step(context, 1); });
  }
  const double loads = weights / MedianOf(reads);
  state.counters["loads_GB/s"] = loads / 1e9;
  state.counters["step_ms"] = MedianOf(steps) * 1e3;
  state.counters["products_ms"] = MedianOf(products) * 1e3;
  state.counters["products_of_loads"] = weights / MedianOf(products) / loads;
  state.counters["step_of_loads"] = bytes / MedianOf(steps) / loads;
}
BENCHMARK(DecodeShare)
    ->ArgNames({"context", "threads"})
    ->Args({128, 1})
    ->Args({128, 2})
    ->Args({4096, 2})
    ->Iterations(20)
    ->UseRealTime();

// Arguments: context, threads. The attention of all layers of one stream, beside plain loads of as
// many bytes by as many threads, in turn.
void DecodeAttention(benchmark::State& state) {
  const int context = static_cast<int>(state.range(0)), threads = static_cast<int>(state.range(1));
  auto backend = MustMakeCpu(threads);
  BenchModel model(*backend, context);
  model.FillCache();
  const Chunk last = {0, context - 1, 1};
  const double bytes = static_cast<double>(model.kv_bytes_per_token()) * context;
  std::vector<double> loads, times;
  for (auto _ : state) {
    loads.push_back(backend->MeasureReadBandwidth(static_cast<size_t>(bytes)));
    for (int i = 0; i < 4; ++i) times.push_back(SecondsOf([&] { model.AttendAll({&last, 1}); }));
  }
  state.counters["loads_GB/s"] = MedianOf(loads) / 1e9;
  state.counters["GB/s"] = bytes / MedianOf(times) / 1e9;
  state.counters["of_loads"] = bytes / MedianOf(times) / MedianOf(loads);
}
BENCHMARK(DecodeAttention)
    ->ArgNames({"context", "threads"})
    ->ArgsProduct({{512, 4096, 8192}, {1, 2}})
    ->Iterations(5)
    ->UseRealTime();

// Decode of contexts {8000, 16, 16, 16}: two threads against the greater of half of one thread's
// time and the step's bytes (weights, keys, values) at the speed at which two threads read a block
// of that size. Each op's milliseconds beside half of those that one thread takes.
void RaggedDecode(benchmark::State& state) {
  const int contexts[] = {8001, 17, 17, 17};
  auto one = MustMakeCpu(1), two = MustMakeCpu(2);
  BenchModel single(*one, contexts, 4), both(*two, contexts, 4);
  single.FillCache();
  both.FillCache();
  std::vector<Chunk> step;
  double bytes = static_cast<double>(both.weight_bytes());
  for (int s = 0; s < 4; ++s) {
    step.push_back({s, contexts[s] - 1, 1});
    bytes += static_cast<double>(both.kv_bytes_per_token()) * contexts[s];
  }
  std::vector<double> singles, boths, ops_of_one[kOps], ops_of_two[kOps];
  const auto note = [](BenchModel& model, std::vector<double>* ops) {
    const auto seconds = model.TakeSeconds();
    for (int op = 0; op < kOps; ++op) ops[op].push_back(seconds[op]);
  };
  for (auto _ : state) {
    singles.push_back(SecondsOf([&] { single.Step(step); }));
    boths.push_back(SecondsOf([&] { both.Step(step); }));
    note(single, ops_of_one);
    note(both, ops_of_two);
  }
  for (int op = 0; op < kOps; ++op) {
    state.counters[StrCat(kOpNames[op], "_half_ms")] = MedianOf(ops_of_one[op]) * 500;
    state.counters[StrCat(kOpNames[op], "_ms")] = MedianOf(ops_of_two[op]) * 1e3;
  }
  const double half = MedianOf(singles) / 2;
  const double read = bytes / two->MeasureReadBandwidth(static_cast<size_t>(bytes));
  state.counters["half_of_one_ms"] = half * 1e3;
  state.counters["bytes_ms"] = read * 1e3;
  state.counters["two_threads_ms"] = MedianOf(boths) * 1e3;
  state.counters["ratio"] = MedianOf(boths) / std::max(half, read);
}
BENCHMARK(RaggedDecode)->Iterations(41)->UseRealTime();

// Prompts of mixed lengths in one step against one prompt of their total, whose attention is more
// work: `ratio` compares the steps, `ratio_without_attention` what both have to do alike, and
// `attention_per_pair` the cost of a (query, key) pair, mixed over single.
void MixedPrefill(benchmark::State& state) {
  const int lengths[] = {1, 200, 17, 96, 3, 64, 31, 100};  // 512 together
  const int total = std::accumulate(std::begin(lengths), std::end(lengths), 0);
  auto backend = MustMakeCpu(static_cast<int>(state.range(0)));
  BenchModel mixed(*backend, lengths, total), packed(*backend, total);
  std::vector<Chunk> step;
  double mixed_pairs = 0, packed_pairs = 0.5 * total * (total + 1);
  for (int s = 0; s < static_cast<int>(std::size(lengths)); ++s) {
    step.push_back({s, 0, lengths[s]});
    mixed_pairs += 0.5 * lengths[s] * (lengths[s] + 1);
  }
  std::vector<double> times, rests, pairs;
  for (auto _ : state) {
    const double a = SecondsOf([&] { mixed.Step(step); });
    const double b = SecondsOf([&] { packed.Step(0, total); });
    const auto in_mixed = mixed.TakeSeconds(), in_packed = packed.TakeSeconds();
    const auto rest = [](double all, const auto& ops) {
      return all - ops[kOpAttention] - ops[kOpHead];  // mixed has eight rows of logits
    };
    times.push_back(a / b);
    rests.push_back(rest(a, in_mixed) / rest(b, in_packed));
    pairs.push_back(in_mixed[kOpAttention] / mixed_pairs /
                    (in_packed[kOpAttention] / packed_pairs));
  }
  state.counters["ratio"] = MedianOf(times);
  state.counters["ratio_without_attention"] = MedianOf(rests);
  state.counters["attention_per_pair"] = MedianOf(pairs);
}
BENCHMARK(MixedPrefill)->ArgName("threads")->Arg(1)->Arg(2)->Iterations(7)->UseRealTime();

}  // namespace
}  // namespace echelon::bench
