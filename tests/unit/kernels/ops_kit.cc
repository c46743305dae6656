#include "tests/unit/kernels/ops_kit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "common/half.h"
#include "kernels/quant/quant.h"

namespace echelon::test {

namespace {
constexpr uint32_t kGuardBits = 0x7fc0dead;  // a NaN that no kernel produces

// Random bytes, with scales that keep values within about [-1, 1].
void RandomKBlock(TensorFormat format, std::mt19937_64& random, std::byte* block) {
  const TensorFormatInfo& info = InfoOf(format);
  for (int i = 0; i < info.block_bytes; ++i) block[i] = static_cast<std::byte>(random() & 0xff);
  const auto scale = [&](float most) {
    return FloatToHalf(most * (0.5f + 0.5f * static_cast<float>(random() % 1000) / 1000.0f));
  };
  if (format == TensorFormat::kQ6_K) {
    StoreU16(scale(1.0f / (128 * 32)), block + 208);
  } else {
    const float codes = format == TensorFormat::kQ4_K ? 16.0f : 32.0f;
    StoreU16(scale(2.0f / (64 * codes)), block);
    StoreU16(scale(1.0f / 64), block + 2);
  }
}
}  // namespace

std::vector<float> RandomFloats(int64_t n, uint64_t seed, float scale) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = random() % 37 == 0 ? 0.0f : uniform(random);
  return values;
}

HostMatrix StoredMatrix::Cut(int64_t begin, int64_t end) const {
  HostMatrix cut = view;
  cut.col_begin = begin;
  cut.col_end = end;
  return cut;
}

std::vector<float> StoredMatrix::Row(int64_t r) const {
  std::vector<float> row(static_cast<size_t>(view.cols));
  DequantizeRow(view.format, view.data + r * view.row_bytes, view.cols, row.data());
  return row;
}

StoredMatrix RandomMatrix(TensorFormat format, int64_t rows, int64_t cols, uint64_t seed) {
  const TensorFormatInfo& info = InfoOf(format);
  CHECK(cols % info.block_elements == 0);
  StoredMatrix matrix;
  const int64_t row_bytes = cols / info.block_elements * info.block_bytes;
  matrix.bytes.resize(static_cast<size_t>(rows * row_bytes));
  std::mt19937_64 random(seed);
  const std::vector<float> values = RandomFloats(rows * cols, seed);
  for (int64_t r = 0; r < rows; ++r) {
    std::byte* row = matrix.bytes.data() + r * row_bytes;
    if (QuantizeRow(format, values.data() + r * cols, cols, row)) continue;
    for (int64_t b = 0; b < cols / info.block_elements; ++b) {
      RandomKBlock(format, random, row + b * info.block_bytes);
    }
  }
  matrix.view = {.format = format,
                 .rows = rows,
                 .cols = cols,
                 .data = matrix.bytes.data(),
                 .row_bytes = row_bytes,
                 .col_begin = 0,
                 .col_end = cols};
  return matrix;
}

FloatBuffer::FloatBuffer(Backend& backend, int64_t rows, int64_t cols, int64_t stride,
                         int64_t shift)
    : FloatBuffer(
          backend, rows, cols,
          std::vector<float>(static_cast<size_t>(rows * cols), std::bit_cast<float>(kGuardBits)),
          stride, shift) {}

FloatBuffer::FloatBuffer(Backend& backend, int64_t rows, int64_t cols,
                         const std::vector<float>& values, int64_t stride, int64_t shift)
    : backend_(backend), shift_(shift) {
  if (stride == 0) stride = cols;
  const size_t total = static_cast<size_t>(shift + rows * stride + 16);
  auto buffer = backend.Allocate(total * sizeof(float));
  CHECK(buffer.ok());
  buffer_ = std::move(*buffer);
  std::vector<float> host(total, std::bit_cast<float>(kGuardBits));
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * cols, cols, host.begin() + shift + r * stride);
  }
  backend.Upload(host.data(), buffer_->data(), total * sizeof(float));
  backend.Synchronize();
  tensor_ = Tensor(static_cast<float*>(buffer_->data()) + shift, rows, cols, stride);
}

std::vector<float> FloatBuffer::Read() const {
  std::vector<float> dense;
  std::vector<float> row(static_cast<size_t>(tensor_.cols));
  for (int64_t r = 0; r < tensor_.rows; ++r) {
    backend_.Download(tensor_.row(r), row.data(), row.size() * sizeof(float));
    backend_.Synchronize();
    dense.insert(dense.end(), row.begin(), row.end());
  }
  return dense;
}

bool FloatBuffer::GuardsIntact() const {
  std::vector<uint32_t> all(buffer_->bytes() / sizeof(float));
  backend_.Download(buffer_->data(), all.data(), buffer_->bytes());
  backend_.Synchronize();
  for (int64_t i = 0; i < static_cast<int64_t>(all.size()); ++i) {
    const int64_t at = i - shift_;
    const bool inside =
        at >= 0 && at < tensor_.rows * tensor_.stride && at % tensor_.stride < tensor_.cols;
    if (!inside && all[i] != kGuardBits) return false;
  }
  return true;
}

std::unique_ptr<Backend> MustMake(const std::string& name, int threads, const std::string& isa) {
  auto backend = MakeBackend({.name = name, .threads = threads, .isa = isa});
  CHECK_MSG(backend.ok(), backend.error().message);
  return std::move(*backend);
}

std::unique_ptr<Weight> MustPack(Backend& backend, std::vector<HostMatrix> parts) {
  auto weight = backend.PackWeight(parts);
  CHECK_MSG(weight.ok(), weight.error().message);
  return std::move(*weight);
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) {
           return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
         });
}

TestBatch::TestBatch(std::vector<std::pair<int, int>> rows, int sequences, int tokens_max,
                     int page_tokens, uint64_t seed) {
  const int pages_each = (tokens_max + page_tokens - 1) / page_tokens;
  pages_.resize(static_cast<size_t>(sequences) * pages_each);
  std::iota(pages_.begin(), pages_.end(), 0);
  std::mt19937_64 random(seed);
  std::shuffle(pages_.begin(), pages_.end(), random);
  for (int s = 0; s <= sequences; ++s) page_begin_.push_back(s * pages_each);
  for (const auto& [sequence, position] : rows) {
    sequences_.push_back(sequence);
    positions_.push_back(position);
  }
}

BatchRows TestBatch::view() const {
  return {
      .positions = positions_, .sequences = sequences_, .page_begin = page_begin_, .pages = pages_};
}

namespace {
int64_t ColsOf(const KvShape& shape, int heads) {
  return int64_t{heads + 2 * shape.kv_heads} * shape.head_dim;
}
}  // namespace

CachedSequence::CachedSequence(Backend& backend, const KvShape& shape, int layer, int heads,
                               int length, std::vector<int32_t> pages)
    : positions(length),
      sequences(length, 0),
      page_begin{0, static_cast<int32_t>(pages.size())},
      pages(std::move(pages)),
      qkv(backend, length, ColsOf(shape, heads),
          RandomFloats(length * ColsOf(shape, heads), 11, 2.0f)),
      layer(layer),
      heads(heads) {
  std::iota(positions.begin(), positions.end(), 0);
  KvShape with_pages = shape;
  with_pages.pages = static_cast<int>(this->pages.size());
  auto made = backend.AllocateKv(with_pages);
  CHECK(made.ok());
  cache = std::move(made).value();
  const std::vector<double> frequency(shape.head_dim / 2, 0.0);
  backend.RopeAppend({.qkv = qkv.tensor(),
                      .heads = heads,
                      .kv_heads = shape.kv_heads,
                      .head_dim = shape.head_dim,
                      .rope = {frequency, false},
                      .rows = {positions, sequences, page_begin, this->pages},
                      .cache = cache.get(),
                      .layer = layer});
  backend.Synchronize();
}

AttentionArgs CachedSequence::Args() const {
  const KvShape& shape = cache->shape();
  AttentionArgs args;
  args.q = qkv.tensor().Cols(0, int64_t{heads} * shape.head_dim);
  args.heads = heads;
  args.head_dim = shape.head_dim;
  args.group = heads / shape.kv_heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  args.cache = cache.get();
  args.layer = layer;
  return args;
}

}  // namespace echelon::test
