// What the kernels of a backend take, through its public interface: one JSON object a line. For
// GPUs (tests/gpu/run), but any backend runs it, so that the program itself can be tried without
// one:
//
//   gpu_bench --backend cpu --scale 64
//
// Every figure is the median of several runs, each ended by a Synchronize and so long that what the
// host does is small beside it; inputs are random and matrices change from call to call where they
// would fit a cache. --scale divides the sizes.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/median.h"
#include "common/strings.h"
#include "kernels/backend.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

struct Settings {
  std::string backend = "cuda";
  int64_t scale = 1;
  int threads = 8;
};

double Seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

void Print(const std::string& name, double value, const char* unit, const std::string& more = "") {
  std::printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"%s}\n", name.c_str(), value,
              unit, more.c_str());
  std::fflush(stdout);
}

[[noreturn]] void Stop(const Error& error) {
  std::fprintf(stderr, "gpu_bench: %s\n", error.message.c_str());
  std::exit(1);
}
template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Stop(result.error());
  return std::move(result).value();
}

// Median seconds of one call, of `runs` of a multiple of `unit` calls each.
double MedianSeconds(Backend& backend, int runs, int unit, const std::function<void(int)>& call) {
  constexpr double kRun = 0.01, kWarm = 0.1;  // launches, uploads and waits are < 1 % of a run
  int calls = unit;
  const auto take = [&] {
    backend.Synchronize();
    const double begin = Seconds();
    for (int i = 0; i < calls; ++i) call(i);
    backend.Synchronize();
    return Seconds() - begin;
  };
  for (double spent = 0.0, last = 0.0; spent < kWarm || last < kRun; spent += last) {
    last = take();
    if (last < kRun) calls *= 2;
  }
  std::vector<double> times;
  for (int run = 0; run < runs; ++run) times.push_back(take() / calls);
  if (const Status health = backend.Health(); !health.ok()) Stop(health.error());
  return MedianOf(std::move(times));
}

class Floats {
 public:
  Floats(Backend& backend, int64_t rows, int64_t cols, uint64_t seed)
      : buffer_(Must(backend.Allocate(static_cast<size_t>(rows * cols) * sizeof(float)))),
        tensor_(static_cast<float*>(buffer_->data()), rows, cols) {
    std::mt19937_64 random(seed);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& value : values) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
    backend.Upload(values.data(), tensor_.data, values.size() * sizeof(float));
    backend.Synchronize();
  }
  Tensor tensor() const { return tensor_; }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
  Tensor tensor_;
};

// Random bytes whose exponents are those of small numbers; only the bytes' number matters.
std::unique_ptr<Weight> RandomWeight(Backend& backend, TensorFormat format, int64_t n, int64_t k,
                                     uint64_t seed) {
  const TensorFormatInfo& info = InfoOf(format);
  const int64_t row_bytes = k / info.block_elements * info.block_bytes;
  HostMatrix matrix = {format, n, k, nullptr, row_bytes, 0, k};
  matrix.read = [&, seed](int64_t begin, int64_t end, std::byte* out) {
    std::mt19937_64 random(seed + static_cast<uint64_t>(begin));
    for (int64_t i = 0; i < (end - begin) * row_bytes; i += 2) {
      const auto bits = static_cast<uint16_t>((random() & 0x83ff) | 0x2c00);
      out[i] = static_cast<std::byte>(bits);
      if (i + 1 < (end - begin) * row_bytes) out[i + 1] = static_cast<std::byte>(bits >> 8);
    }
    return Status();
  };
  return Must(backend.PackWeight(std::span(&matrix, 1)));
}

// Few rows: bound by the weights' bytes. Many: by arithmetic.
void BenchMatMul(Backend& backend, const Settings& settings, double bandwidth) {
  const int64_t k = std::max<int64_t>(256, 8192 / settings.scale / 256 * 256), n = k;
  for (const TensorFormat format : {TensorFormat::kBF16, TensorFormat::kQ8_0, TensorFormat::kQ6_K,
                                    TensorFormat::kQ4_K, TensorFormat::kQ4_1}) {
    std::vector<std::unique_ptr<Weight>> weights;
    uint64_t bytes = 0;  // together several times a level-2 cache
    while (weights.empty() || bytes < (uint64_t{256} << 20) / settings.scale) {
      weights.push_back(RandomWeight(backend, format, n, k, weights.size()));
      bytes += weights.back()->bytes();
    }
    const auto each = static_cast<double>(weights[0]->bytes());
    const int calls = static_cast<int>(weights.size());
    for (const int64_t rows : {1, 4, 16, 64, 2048}) {
      if (rows == 2048 && format != TensorFormat::kBF16 && format != TensorFormat::kQ4_K) continue;
      const Floats x(backend, rows, k, 1), out(backend, rows, n, 2);
      const double seconds = MedianSeconds(backend, 5, rows > 64 ? 2 : calls, [&](int i) {
        backend.MatMul(x.tensor(), *weights[i % calls], nullptr, out.tensor());
      });
      const double flops = 2.0 * static_cast<double>(rows) * n * k / seconds;
      Print(StrCat("matmul ", InfoOf(format).name, " ", n, "x", k, ", ", rows, " rows"),
            seconds * 1e6, "us",
            StrCat(", \"gb_per_s\": ", each / seconds * 1e-9, ", \"of_read_bandwidth\": ",
                   each / seconds / bandwidth, ", \"tflop_per_s\": ", flops * 1e-12));
    }
  }
}

// Sequences whose caches are full of random keys and values.
class Cached {
 public:
  Cached(Backend& backend, std::vector<int64_t> lengths) : lengths_(std::move(lengths)) {
    int64_t pages = 0;
    page_begin_ = {0};
    for (const int64_t length : lengths_) {
      pages += (length + kPage - 1) / kPage;
      page_begin_.push_back(static_cast<int32_t>(pages));
    }
    pages_.resize(pages);
    std::iota(pages_.begin(), pages_.end(), 0);
    std::shuffle(pages_.begin(), pages_.end(), std::mt19937_64(3));
    cache_ = Must(backend.AllocateKv({.layers = 1,
                                      .pages = static_cast<int>(pages),
                                      .page_tokens = kPage,
                                      .kv_heads = kKvHeads,
                                      .head_dim = kDim}));
    const int64_t chunk = 1024, cols = int64_t{kHeads + 2 * kKvHeads} * kDim;
    const Floats qkv(backend, chunk, cols, 4);
    const std::vector<double> frequency(kDim / 2, 0.0);
    for (size_t s = 0; s < lengths_.size(); ++s) {
      for (int64_t at = 0; at < lengths_[s]; at += chunk) {
        const int64_t count = std::min(chunk, lengths_[s] - at);
        std::vector<int32_t> positions(count), sequences(count, static_cast<int32_t>(s));
        std::iota(positions.begin(), positions.end(), static_cast<int32_t>(at));
        backend.RopeAppend({.qkv = qkv.tensor().Rows(0, count),
                            .heads = kHeads,
                            .kv_heads = kKvHeads,
                            .head_dim = kDim,
                            .rope = {frequency, false},
                            .rows = {positions, sequences, page_begin_, pages_},
                            .cache = cache_.get(),
                            .layer = 0});
        backend.Synchronize();
      }
    }
  }

  // Seconds of one decode step's attention in one layer.
  double Decode(Backend& backend) {
    std::vector<int32_t> positions, sequences;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      positions.push_back(static_cast<int32_t>(lengths_[s]) - 1);
      sequences.push_back(static_cast<int32_t>(s));
    }
    return Attend(backend, positions, sequences);
  }
  // The last `rows` positions of the first sequence together.
  double Prefill(Backend& backend, int64_t rows) {
    std::vector<int32_t> positions(rows), sequences(rows, 0);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(lengths_[0] - rows));
    return Attend(backend, positions, sequences);
  }
  double Bytes() const {
    const auto total = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
    return static_cast<double>(total) * 2 * kKvHeads * kDim * 2;
  }

  static constexpr int kPage = 16, kHeads = 32, kKvHeads = 8, kDim = 128;

 private:
  double Attend(Backend& backend, const std::vector<int32_t>& positions,
                const std::vector<int32_t>& sequences) {
    const auto rows = static_cast<int64_t>(positions.size());
    const Floats q(backend, rows, kHeads * kDim, 5), out(backend, rows, kHeads * kDim, 6);
    AttentionArgs args;
    args.q = q.tensor();
    args.out = out.tensor();
    args.heads = kHeads;
    args.head_dim = kDim;
    args.group = kHeads / kKvHeads;
    args.scale = 1.0f / std::sqrt(static_cast<float>(kDim));
    args.rows = {positions, sequences, page_begin_, pages_};
    args.cache = cache_.get();
    return MedianSeconds(backend, 5, 4, [&](int) { backend.Attention(args); });
  }

  std::vector<int64_t> lengths_;
  std::vector<int32_t> page_begin_, pages_;
  std::unique_ptr<KvCache> cache_;
};

void BenchAttention(Backend& backend, const Settings& settings, double bandwidth) {
  const int64_t k = 1024 / std::min<int64_t>(settings.scale, 64);
  const auto report = [&](const std::string& name, double seconds, double bytes) {
    Print(name, seconds * 1e6, "us",
          StrCat(", \"gb_per_s\": ", bytes / seconds * 1e-9,
                 ", \"of_read_bandwidth\": ", bytes / seconds / bandwidth));
  };
  {
    Cached one(backend, {128 * k});
    report(StrCat("decode attention, 1 x ", 128 * k), one.Decode(backend), one.Bytes());
  }
  std::vector<int64_t> ragged(16, k), equal(16, 143 * k / 16);
  ragged[0] = 128 * k;
  Cached uneven(backend, ragged), even(backend, equal);
  const double ragged_seconds = uneven.Decode(backend), equal_seconds = even.Decode(backend);
  report(StrCat("decode attention, ragged ", 128 * k, " + 15 x ", k), ragged_seconds,
         uneven.Bytes());
  report(StrCat("decode attention, 16 x ", 143 * k / 16), equal_seconds, even.Bytes());
  Print("decode attention, ragged over equal", ragged_seconds / equal_seconds, "ratio");
  Cached prompt(backend, {32 * k});
  const int64_t rows = std::min<int64_t>(512, 32 * k);
  const double seconds = prompt.Prefill(backend, rows);
  const double flops = 4.0 * static_cast<double>(rows) * (32 * k - rows / 2.0) * 32 * 128;
  Print(StrCat("prefill attention, ", rows, " rows behind ", 32 * k - rows), seconds * 1e6, "us",
        StrCat(", \"tflop_per_s\": ", flops / seconds * 1e-12));
}

// Llamas of random bfloat16 weights, in the shapes of known ones.
struct ModelShape {
  const char* name;
  int d_model, layers, heads, kv_heads, d_ff, vocab;
};
constexpr ModelShape kShapes[] = {{"1.2B dummy", 2048, 16, 32, 8, 8192, 128256},
                                  {"SmolLM2-135M's shape", 576, 30, 9, 3, 1536, 49152}};

TinyModel Scaled(const ModelShape& shape, const Settings& settings) {
  const auto part = [&](int value, int unit) {
    return std::max(unit, value / static_cast<int>(settings.scale) / unit * unit);
  };
  TinyModel model;
  model.head_dim = 64;
  model.d_model = part(shape.d_model, 64);
  model.n_layers = part(shape.layers, 2);
  model.n_kv_heads = part(shape.kv_heads, 1);
  model.n_heads = model.n_kv_heads * (shape.heads / shape.kv_heads);
  model.d_ff = part(shape.d_ff, 256);
  model.vocab = part(shape.vocab, 512);
  model.context = 4096;
  model.format = TensorFormat::kBF16;
  return model;
}

// What a decode step reads whatever the batch: every matrix once, the tied embedding as the head.
double WeightBytes(const TinyModel& model) {
  const double heads = model.head_dim * (2.0 * model.n_heads + 2.0 * model.n_kv_heads);
  return 2.0 * model.d_model *
         (model.n_layers * (heads + 3.0 * model.d_ff) + static_cast<double>(model.vocab));
}

// Seconds of a step that decodes `streams` streams, host and sampler included.
double DecodeStep(LocalGroup& group, int streams, int tokens) {
  std::vector<testing::Wish> wishes(streams);
  for (testing::Wish& wish : wishes) {
    wish.prompt.assign(4, 7);  // 64 of them fit the 512 rows of a step
    wish.max_tokens = 4;
    wish.params = testing::Greedy();
  }
  testing::Pace pace;
  pace.plans_ahead = 2;
  const auto seconds_of = [&](int more) {
    for (testing::Wish& wish : wishes) wish.max_tokens = 4 + more;
    const double begin = Seconds();
    testing::Generate(group, wishes, 16, pace);
    return Seconds() - begin;
  };
  seconds_of(tokens);  // warms up: graphs for every size that follows
  std::vector<double> steps;
  for (int round = 0; round < 5; ++round) {
    const double few = seconds_of(0);
    steps.push_back((seconds_of(tokens) - few) / tokens);
  }
  return MedianOf(std::move(steps));
}

// Whole models: tokens a second of decode, and the step beside what reading the weights takes.
void BenchModel(const Settings& settings, const ModelShape& shape, double bandwidth) {
  const TinyModel model = Scaled(shape, settings);
  const ScratchFolder folder;
  const auto checkpoint = TinyDummy(model, folder.path());
  LocalGroupOptions options;
  options.backend = {.name = settings.backend, .threads = settings.threads};
  options.executor.context_max = 2048;
  options.executor.kv_memory_bytes = uint64_t{settings.scale > 1 ? 64u : 4096u} << 20;
  const double begin = Seconds();
  const auto group = Must(LocalGroup::Start(*checkpoint, checkpoint->config(), options));
  Print(StrCat(shape.name, ", weights in place"), Seconds() - begin, "s");
  for (const int streams : {1, 64}) {
    const double step = DecodeStep(*group, streams, settings.scale > 1 ? 4 : 128);
    Print(StrCat(shape.name, ", decode of ", streams, streams == 1 ? " stream" : " streams"),
          streams / step, "tokens/s",
          StrCat(", \"step_ms\": ", step * 1e3,
                 ", \"of_weights_read\": ", WeightBytes(model) / bandwidth / step));
  }
}

int Main(const Settings& settings) {
  const auto backend = Must(MakeBackend({.name = settings.backend, .threads = settings.threads}));
  std::fprintf(stderr, "%s\n", backend->Describe().c_str());
  double bandwidth = 0.0;  // the greatest: clocks go up
  for (const double end = Seconds() + 0.3; Seconds() < end;) {
    const size_t bytes = (size_t{1} << 30) / static_cast<size_t>(settings.scale);
    bandwidth = std::max(bandwidth, backend->MeasureReadBandwidth(bytes));
  }
  Print("memory read", bandwidth * 1e-9, "GB/s");
  BenchMatMul(*backend, settings, bandwidth);
  BenchAttention(*backend, settings, bandwidth);
  for (const ModelShape& shape : kShapes) BenchModel(settings, shape, bandwidth);
  return 0;
}

}  // namespace
}  // namespace echelon

int main(int argc, char** argv) {
  echelon::Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--backend") settings.backend = argv[i + 1];
    if (flag == "--scale") settings.scale = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--threads") settings.threads = std::max(1, std::atoi(argv[i + 1]));
  }
  return echelon::Main(settings);
}
