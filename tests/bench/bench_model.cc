#include "tests/bench/bench_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "common/check.h"
#include "kernels/quant/quant.h"

namespace echelon::bench {

namespace {
// Slots of activations, (T, cols) each.
enum Slot { kResidual, kNormed, kQkv, kContext, kDelta, kGateUp, kGated, kLogits, kNorm, kSlots };
constexpr int64_t kSlotCols[kSlots] = {kWidth,      kWidth,  kQkvRows,    kWidth, kWidth,
                                       2 * kHidden, kHidden, kVocabulary, kWidth};
constexpr float kEps = 1e-5f;
}  // namespace

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
    CHECK(QuantizeRow(shape.format, values.data(), shape.cols, row));
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

BenchModel::BenchModel(Backend& backend, int context_max) : backend_(backend) {
  const auto add = [&](int shape) {
    auto weight = RandomWeight(backend, kShapes[shape]);
    weight_bytes_ += weight->bytes();
    return weight;
  };
  for (int i = 0; i < kLayers; ++i) layers_.push_back({add(0), add(1), add(2), add(3)});
  head_ = add(4);
  const int pages = (context_max + kPageTokens - 1) / kPageTokens;
  auto cache = backend.AllocateKv({.layers = kLayers,
                                   .pages = pages,
                                   .page_tokens = kPageTokens,
                                   .kv_heads = kKvHeads,
                                   .head_dim = kHeadDim,
                                   .type = KvType::kF16});
  CHECK(cache.ok());
  cache_ = std::move(*cache);
  pages_.resize(pages);
  std::iota(pages_.begin(), pages_.end(), 0);
  page_begin_ = {0, pages};
  for (int i = 0; i < kHeadDim / 2; ++i) {
    inverse_frequency_.push_back(std::pow(1e5, -2.0 * i / kHeadDim));
  }
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t rows = slot == kLogits || slot == kNorm ? 1 : context_max;
    auto buffer = backend.Allocate(rows * kSlotCols[slot] * sizeof(float));
    CHECK(buffer.ok());
    const std::vector<float> ones(static_cast<size_t>(rows * kSlotCols[slot]), 1.0f);
    backend.Upload(ones.data(), (*buffer)->data(), ones.size() * sizeof(float));
    backend.Synchronize();
    buffers_.push_back(std::move(*buffer));
  }
}

Tensor BenchModel::View(int slot, int64_t rows) const {
  return Tensor(static_cast<float*>(buffers_[slot]->data()), rows, kSlotCols[slot]);
}

void BenchModel::RunLayer(int layer, const BatchRows& rows) {
  const Layer& weights = layers_[layer];
  const auto* norm = static_cast<const float*>(buffers_[kNorm]->data());
  const Tensor residual = View(kResidual, tokens_), normed = View(kNormed, tokens_);
  const Tensor qkv = View(kQkv, tokens_), context = View(kContext, tokens_);
  const Tensor delta = View(kDelta, tokens_);
  backend_.RmsNorm(residual, norm, kEps, normed);
  backend_.MatMul(normed, *weights.qkv, nullptr, qkv);
  backend_.RopeAppend({.qkv = qkv,
                       .heads = kHeads,
                       .kv_heads = kKvHeads,
                       .head_dim = kHeadDim,
                       .rope = {inverse_frequency_, true},
                       .rows = rows,
                       .cache = cache_.get(),
                       .layer = layer});
  backend_.Attention({.q = qkv.Cols(0, kWidth),
                      .out = context,
                      .heads = kHeads,
                      .head_dim = kHeadDim,
                      .group = kHeads / kKvHeads,
                      .scale = 0.125f,
                      .rows = rows,
                      .cache = cache_.get(),
                      .layer = layer});
  backend_.MatMul(context, *weights.attention_out, nullptr, delta);
  backend_.AddResidual(residual, delta, 1.0f, nullptr, 0.0f);
  backend_.RmsNorm(residual, norm, kEps, normed);
  backend_.MatMul(normed, *weights.gate_up, nullptr, View(kGateUp, tokens_));
  backend_.GatedActivation(View(kGateUp, tokens_), GatedKind::kSilu, View(kGated, tokens_));
  backend_.MatMul(View(kGated, tokens_), *weights.down, nullptr, delta);
  backend_.AddResidual(residual, delta, 0.5f, nullptr, 0.0f);  // 0.5: values stay finite for ever
}

void BenchModel::Step(int begin, int tokens) {
  tokens_ = tokens;
  positions_.resize(tokens);
  std::iota(positions_.begin(), positions_.end(), begin);
  sequences_.assign(tokens, 0);
  const BatchRows rows = {
      .positions = positions_, .sequences = sequences_, .page_begin = page_begin_, .pages = pages_};
  for (int layer = 0; layer < kLayers; ++layer) RunLayer(layer, rows);
  backend_.MatMul(View(kResidual, tokens).Rows(tokens - 1, tokens), *head_, nullptr,
                  View(kLogits, 1));
  backend_.Synchronize();
}

}  // namespace echelon::bench
