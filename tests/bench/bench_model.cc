#include "tests/bench/bench_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <utility>

#include "common/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/quant/quant.h"
#include "tests/bench/peak.h"

namespace echelon::bench {

namespace {
// Slots of activations, (T, cols) each.
enum Slot {
  kResidual,
  kNormed,
  kQkv,
  kContext,
  kDelta,
  kGateUp,
  kGated,
  kLast,
  kLogits,
  kNorm,
  kSlots
};
constexpr int64_t kSlotCols[kSlots] = {kWidth,      kWidth,  kQkvRows, kWidth,      kWidth,
                                       2 * kHidden, kHidden, kWidth,   kVocabulary, kWidth};
constexpr float kEps = 1e-5f;
}  // namespace

std::unique_ptr<Backend> MustMakeCpu(int threads) {
  auto backend = MakeBackend({.name = "cpu", .threads = threads});
  CHECK_MSG(backend.ok(), backend.error().message);
  return std::move(*backend);
}

const Peak& PeakOfThread(std::string_view isa) {
  static std::map<std::string, Peak, std::less<>> measured;
  const auto [at, inserted] = measured.try_emplace(std::string(isa), Peak{});
  if (inserted) {
    at->second = isa == "avx512"    ? MeasurePeakAvx512()
                 : isa == "avxvnni" ? MeasurePeakAvxVnni()
                                    : MeasurePeakAvx2();
    std::printf("a thread's peak, %s: %.0f GMAC/s of 16-bit codes, %.0f of floats\n",
                at->first.c_str(), at->second.dots / 1e9, at->second.fmas / 1e9);
  }
  return at->second;
}

double ReadBandwidth(int threads) {
  static std::map<int, double> measured;
  const auto [at, inserted] = measured.try_emplace(threads, 0.0);
  if (inserted) {
    at->second = MustMakeCpu(threads)->MeasureReadBandwidth(kModelBytes);
    std::printf("read bandwidth, %d threads, 96 MiB: %.1f GB/s\n", threads, at->second / 1e9);
  }
  return at->second;
}

std::unique_ptr<Weight> RandomWeight(Backend& backend, const MatrixShape& shape) {
  const TensorFormatInfo& info = InfoOf(shape.format);
  const int64_t row_bytes = shape.cols / info.block_elements * info.block_bytes;
  // 64 random rows, repeated: speed does not depend on the values.
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> values(static_cast<size_t>(shape.cols));
  std::vector<std::byte> bytes(static_cast<size_t>(shape.rows * row_bytes));
  for (int64_t r = 0; r < shape.rows; ++r) {
    std::byte* row = bytes.data() + r * row_bytes;
    if (r >= 64) {
      std::copy_n(bytes.data() + r % 64 * row_bytes, row_bytes, row);
      continue;
    }
    for (float& value : values) value = normal(random);
    // The K-quants have no encoder: equal bytes, whose float16 numbers are 0.065.
    if (!QuantizeRow(shape.format, values.data(), shape.cols, row)) {
      std::fill_n(row, row_bytes, std::byte{0x2c});
    }
  }
  const HostMatrix matrix = {.format = shape.format,
                             .rows = shape.rows,
                             .cols = shape.cols,
                             .data = bytes.data(),
                             .row_bytes = row_bytes,
                             .col_begin = 0,
                             .col_end = shape.cols};
  auto weight = backend.PackWeight({&matrix, 1});
  CHECK(weight.ok());
  return std::move(*weight);
}

BenchModel::BenchModel(Backend& backend, std::span<const int> contexts, int rows_max)
    : backend_(backend) {
  const auto add = [&](int shape) {
    auto weight = RandomWeight(backend, kShapes[shape]);
    weight_bytes_ += weight->bytes();
    return weight;
  };
  for (int i = 0; i < kLayers; ++i) layers_.push_back({add(0), add(1), add(2), add(3)});
  head_ = add(4);
  MakeCache(contexts);
  for (int i = 0; i < kHeadDim / 2; ++i) {
    inverse_frequency_.push_back(std::pow(1e5, -2.0 * i / kHeadDim));
  }
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t rows = slot == kNorm                      ? 1
                         : slot == kLogits || slot == kLast ? std::ssize(contexts)
                                                            : rows_max;
    auto buffer = backend.Allocate(rows * kSlotCols[slot] * sizeof(float));
    CHECK(buffer.ok());
    const std::vector<float> ones(static_cast<size_t>(rows * kSlotCols[slot]), 1.0f);
    backend.Upload(ones.data(), (*buffer)->data(), ones.size() * sizeof(float));
    backend.Synchronize();
    buffers_.push_back(std::move(*buffer));
  }
}

void BenchModel::MakeCache(std::span<const int> contexts) {
  page_begin_ = {0};
  for (const int context : contexts) {
    page_begin_.push_back(page_begin_.back() + (context + kPageTokens - 1) / kPageTokens);
  }
  auto cache = backend_.AllocateKv({.layers = kLayers,
                                    .pages = page_begin_.back(),
                                    .page_tokens = kPageTokens,
                                    .kv_heads = kKvHeads,
                                    .head_dim = kHeadDim,
                                    .type = KvType::kF16});
  CHECK(cache.ok());
  cache_ = std::move(*cache);
  pages_.resize(page_begin_.back());
  std::iota(pages_.begin(), pages_.end(), 0);
}

Tensor BenchModel::View(int slot, int64_t rows) const {
  return Tensor(static_cast<float*>(buffers_[slot]->data()), rows, kSlotCols[slot]);
}

template <typename Body>
void BenchModel::Timed(Op op, Body body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  backend_.Synchronize();
  seconds_[op] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::array<double, kOps> BenchModel::TakeSeconds() { return std::exchange(seconds_, {}); }

BatchRows BenchModel::rows() const {
  return {
      .positions = positions_, .sequences = sequences_, .page_begin = page_begin_, .pages = pages_};
}

void BenchModel::Append(int layer, const BatchRows& rows) {
  backend_.RopeAppend({.qkv = View(kQkv, tokens_),
                       .heads = kHeads,
                       .kv_heads = kKvHeads,
                       .head_dim = kHeadDim,
                       .rope = {inverse_frequency_, true},
                       .rows = rows,
                       .cache = cache_.get(),
                       .layer = layer});
}

void BenchModel::FillCache() {
  const auto rows_max = static_cast<int>(buffers_[kQkv]->bytes() / sizeof(float) / kQkvRows);
  for (int s = 0; s + 1 < std::ssize(page_begin_); ++s) {
    const int room = (page_begin_[s + 1] - page_begin_[s]) * kPageTokens;
    for (int begin = 0; begin < room; begin += rows_max) {
      const Chunk chunk = {s, begin, std::min(rows_max, room - begin)};
      PlaceRows({&chunk, 1});
      for (int layer = 0; layer < kLayers; ++layer) Append(layer, rows());
    }
  }
}

void BenchModel::AttendAll(std::span<const Chunk> chunks) {
  PlaceRows(chunks);
  for (int layer = 0; layer < kLayers; ++layer) Attend(layer, rows());
}

void BenchModel::Attend(int layer, const BatchRows& rows) {
  Timed(kOpAttention, [&] {
    backend_.Attention({.q = View(kQkv, tokens_).Cols(0, kWidth),
                        .out = View(kContext, tokens_),
                        .heads = kHeads,
                        .head_dim = kHeadDim,
                        .group = kHeads / kKvHeads,
                        .scale = 0.125f,
                        .rows = rows,
                        .cache = cache_.get(),
                        .layer = layer});
  });
}

void BenchModel::RunLayer(int layer, const BatchRows& rows) {
  const Layer& weights = layers_[layer];
  const auto* norm = static_cast<const float*>(buffers_[kNorm]->data());
  const Tensor residual = View(kResidual, tokens_), normed = View(kNormed, tokens_);
  const Tensor gate_up = View(kGateUp, tokens_), gated = View(kGated, tokens_);
  const Tensor delta = View(kDelta, tokens_);
  const auto normalise = [&] {
    Timed(kOpNorm, [&] { backend_.RmsNorm(residual, norm, kEps, normed); });
  };
  const auto multiply = [&](Tensor x, const Weight& weight, Tensor out) {
    Timed(kOpMatMul, [&] { backend_.MatMul(x, weight, nullptr, out); });
  };
  // Half of the MLP's residual is kept: values stay finite for ever.
  const auto add = [&](float keep) {
    Timed(kOpResidual, [&] { backend_.AddResidual(residual, delta, keep, nullptr, 0.0f); });
  };
  normalise();
  multiply(normed, *weights.qkv, View(kQkv, tokens_));
  backend_.Announce(*weights.attention_out);
  Timed(kOpRope, [&] { Append(layer, rows); });
  Attend(layer, rows);
  multiply(View(kContext, tokens_), *weights.attention_out, delta);
  backend_.Announce(*weights.gate_up);
  add(1.0f);
  normalise();
  multiply(normed, *weights.gate_up, gate_up);
  backend_.Announce(*weights.down);
  Timed(kOpGated, [&] { backend_.GatedActivation(gate_up, GatedKind::kSilu, gated); });
  multiply(gated, *weights.down, delta);
  backend_.Announce(layer + 1 < kLayers ? *layers_[layer + 1].qkv : *head_);
  add(0.5f);
}

std::vector<const Weight*> BenchModel::weights() const {
  std::vector<const Weight*> all;
  for (const Layer& layer : layers_) {
    for (const auto* weight : {&layer.qkv, &layer.attention_out, &layer.gate_up, &layer.down}) {
      all.push_back(weight->get());
    }
  }
  all.push_back(head_.get());
  return all;
}

void BenchModel::MultiplyAll() {
  const auto multiply = [&](Slot x, const Weight& weight, Slot out) {
    backend_.MatMul(View(x, 1), weight, nullptr, View(out, 1));
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    multiply(kNormed, *layer.qkv, kQkv);
    backend_.Announce(*layer.attention_out);
    multiply(kContext, *layer.attention_out, kDelta);
    backend_.Announce(*layer.gate_up);
    multiply(kNormed, *layer.gate_up, kGateUp);
    backend_.Announce(*layer.down);
    multiply(kGated, *layer.down, kDelta);
    backend_.Announce(i + 1 < layers_.size() ? *layers_[i + 1].qkv : *head_);
  }
  multiply(kLast, *head_, kLogits);
  backend_.Synchronize();
}

void BenchModel::PlaceRows(std::span<const Chunk> chunks) {
  positions_.clear();
  sequences_.clear();
  last_rows_.clear();
  for (const Chunk& chunk : chunks) {
    for (int i = 0; i < chunk.tokens; ++i) {
      positions_.push_back(chunk.begin + i);
      sequences_.push_back(chunk.sequence);
    }
    last_rows_.push_back(static_cast<int32_t>(positions_.size()) - 1);
  }
  tokens_ = static_cast<int>(positions_.size());
}

void BenchModel::Step(std::span<const Chunk> chunks) {
  PlaceRows(chunks);
  for (int layer = 0; layer < kLayers; ++layer) RunLayer(layer, rows());
  const int64_t last = std::ssize(last_rows_);
  Timed(kOpHead, [&] {
    backend_.GatherRows(View(kResidual, tokens_), last_rows_, View(kLast, last));
    backend_.MatMul(View(kLast, last), *head_, nullptr, View(kLogits, last));
  });
}

WeightReader::WeightReader(int threads, const std::vector<const Weight*>& weights)
    : pool_(threads) {
  const auto kernels = cpu::ChooseKernels("auto");
  CHECK(kernels.ok());
  sum_ = (*kernels)->sum_floats;
  constexpr size_t kPiece = size_t{128} << 10;  // as MeasureReadBandwidth hands out
  for (const Weight* weight : weights) {
    const auto& packed = static_cast<const cpu::CpuWeight&>(*weight);
    const auto bytes = packed.PanelBytes(0, packed.panels());
    for (size_t at = 0; at + 256 <= bytes.size(); at += kPiece) {
      const size_t floats = std::min(kPiece, bytes.size() - at) / 256 * 64;
      pieces_.push_back({reinterpret_cast<const float*>(bytes.data() + at), floats});
    }
  }
}

void WeightReader::Read() {
  pool_.ParallelFor(std::ssize(pieces_), 1, [&](int64_t piece, int64_t, int) {
    const std::span<const float> floats = pieces_[static_cast<size_t>(piece)];
    sink_.store(sum_(floats.data(), std::ssize(floats)), std::memory_order_relaxed);
  });
}

}  // namespace echelon::bench
