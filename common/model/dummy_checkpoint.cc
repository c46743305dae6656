#include <atomic>
#include <cmath>
#include <cstring>
#include <span>

#include "common/check.h"
#include "common/half.h"
#include "common/model/file_checkpoint.h"
#include "common/model/fingerprint.h"
#include "common/model/open_checkpoint.h"
#include "common/random.h"

namespace echelon {

namespace {

// A block of random bits becomes a block of values by fixing its scales. With a scale of 1 the
// codes of a format are uniform over `levels` neighbouring integers around their middle, so their
// standard deviation is sqrt((levels^2 - 1) / 12).
struct BlockRecipe {
  TensorFormat format;
  double levels;
  int scale_at;      // of the half-precision scale
  int minimum_at;    // of the half-precision offset, -1 where codes are centred already
  double minimum;    // the offset that centres the codes, in scales
  int constants_at;  // of inner scales, set to one; -1 where there are none
  int constants;     // their bytes
};
// Q4_K and Q5_K subtract the minimum, _1 formats add it. Inner scales of 1: Q6_K has 16 bytes of
// them, Q4_K and Q5_K pack eight scales and minima into 12 (8 bytes of 1, then 4 of 0x11).
constexpr BlockRecipe kRecipes[] = {
    {TensorFormat::kQ8_0, 256, 0, -1, 0, -1, 0},   {TensorFormat::kQ4_0, 16, 0, -1, 0, -1, 0},
    {TensorFormat::kQ4_1, 16, 0, 2, -7.5, -1, 0},  {TensorFormat::kQ5_0, 32, 0, -1, 0, -1, 0},
    {TensorFormat::kQ5_1, 32, 0, 2, -15.5, -1, 0}, {TensorFormat::kQ4_K, 16, 0, 2, 7.5, 4, 12},
    {TensorFormat::kQ5_K, 32, 0, 2, 15.5, 4, 12},  {TensorFormat::kQ6_K, 64, 208, -1, 0, 192, 16},
};

void PutHalf(std::byte* at, double value) {
  const uint16_t half = FloatToHalf(static_cast<float>(value));
  std::memcpy(at, &half, sizeof half);
}

const BlockRecipe& RecipeOf(TensorFormat format) {
  for (const BlockRecipe& recipe : kRecipes) {
    if (recipe.format == format) return recipe;
  }
  CHECK_MSG(false, "no recipe for this format");
  return kRecipes[0];
}

class DummyCheckpoint final : public Checkpoint {
 public:
  DummyCheckpoint(ModelConfig config, const CheckpointOptions& options, const std::string& source);

  const ModelConfig& config() const override { return config_; }
  const TensorInfo* Find(TensorRole role, int layer) const override;
  Status ReadRows(const TensorInfo& tensor, Range rows, Range cols,
                  std::span<std::byte> out) const override;
  std::string Fingerprint() const override { return fingerprint_; }
  uint64_t file_bytes() const override { return 0; }
  uint64_t bytes_read() const override { return bytes_made_.load(std::memory_order_relaxed); }

 private:
  // What the elements of a tensor look like: uniform, of this mean and standard deviation.
  struct Distribution {
    double mean = 0.0;
    double deviation = 0.0;
  };
  Distribution DistributionOf(TensorRole role, int64_t cols) const;
  void FillFloats(uint32_t id, const TensorInfo& tensor, Distribution d, int64_t first,
                  std::span<std::byte> out) const;
  void FillBlocks(uint32_t id, const TensorInfo& tensor, Distribution d, int64_t first,
                  std::span<std::byte> out) const;

  ModelConfig config_;
  uint64_t seed_;
  std::string fingerprint_;
  std::vector<TensorInfo> tensors_;  // [layer][role]; rows = 0 where the model has none
  mutable std::atomic<uint64_t> bytes_made_ = 0;
};

DummyCheckpoint::DummyCheckpoint(ModelConfig config, const CheckpointOptions& options,
                                 const std::string& source)
    : config_(std::move(config)), seed_(options.dummy_seed) {
  echelon::Fingerprint fingerprint;
  fingerprint.Add(source);
  fingerprint.Add(seed_);
  fingerprint.Add(static_cast<uint64_t>(options.dummy_format));
  fingerprint_ = fingerprint.Hex();
  tensors_.resize(static_cast<size_t>(config_.n_layers()) * kTensorRoles);
  for (size_t slot = 0; slot < tensors_.size(); ++slot) {
    const auto role = static_cast<TensorRole>(slot % kTensorRoles);
    const int layer = static_cast<int>(slot / kTensorRoles);
    if (!HasRole(config_, role) || (IsGlobal(role) && layer > 0)) continue;
    TensorInfo& tensor = tensors_[slot];
    const TensorShape shape = ShapeOf(config_, role);
    tensor.name = TensorName(config_, NameScheme::kGguf, role, layer);
    tensor.rows = shape.rows;
    tensor.cols = shape.cols;
    // Vectors are small: never quantised. Rows that are no whole number of blocks stay BF16.
    const bool quantised = InfoOf(options.dummy_format).block_elements > 1;
    tensor.format = shape.rows == 1 && quantised ? TensorFormat::kF32 : options.dummy_format;
    if (shape.cols % InfoOf(tensor.format).block_elements != 0) tensor.format = TensorFormat::kBF16;
    const TensorFormatInfo& format = InfoOf(tensor.format);
    tensor.row_bytes = shape.cols / format.block_elements * format.block_bytes;
  }
}

const TensorInfo* DummyCheckpoint::Find(TensorRole role, int layer) const {
  CHECK(IsGlobal(role) || (0 <= layer && layer < config_.n_layers()));
  const auto row = static_cast<size_t>(IsGlobal(role) ? 0 : layer);
  const TensorInfo& tensor = tensors_[row * kTensorRoles + static_cast<size_t>(role)];
  return tensor.rows > 0 ? &tensor : nullptr;
}

DummyCheckpoint::Distribution DummyCheckpoint::DistributionOf(TensorRole role, int64_t cols) const {
  switch (role) {
    case TensorRole::kFinalNorm:
    case TensorRole::kAttentionNorm:
    case TensorRole::kPostAttentionNorm:
    case TensorRole::kMlpNorm:
    case TensorRole::kPostMlpNorm:
    case TensorRole::kQueryNorm:
    case TensorRole::kKeyNorm:
      return {config_.norm_plus_one ? 0.0 : 1.0, 0.1};
    case TensorRole::kQueryBias:
    case TensorRole::kKeyBias:
    case TensorRole::kValueBias:
      return {0.0, 0.1};
    default:
      return {0.0, 1.0 / std::sqrt(static_cast<double>(cols))};  // keeps a vector's size
  }
}

// Elements first, first + 1, ... in row-major order; eight share the random bits of one draw.
void DummyCheckpoint::FillFloats(uint32_t id, const TensorInfo& tensor, Distribution d,
                                 int64_t first, std::span<std::byte> out) const {
  const auto size = static_cast<size_t>(InfoOf(tensor.format).block_bytes);
  const double spread = d.deviation * std::sqrt(12.0) / 65536.0;
  std::array<uint32_t, 4> bits{};
  int64_t drawn = -1;
  for (size_t i = 0; i < out.size() / size; ++i) {
    const int64_t element = first + static_cast<int64_t>(i);
    if (element / 8 != drawn) {
      drawn = element / 8;
      bits =
          Philox(seed_, {static_cast<uint32_t>(drawn), static_cast<uint32_t>(drawn >> 32), id, 0});
    }
    const uint32_t lane = bits[static_cast<size_t>(element % 8 / 2)] >> (element % 2 * 16) & 0xffff;
    const auto value = static_cast<float>(d.mean + spread * (lane - 32767.5));
    if (tensor.format == TensorFormat::kF32) {
      std::memcpy(&out[i * size], &value, sizeof value);
    } else {
      const uint16_t half = tensor.format == TensorFormat::kF16
                                ? FloatToHalf(value)
                                : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      std::memcpy(&out[i * size], &half, sizeof half);
    }
  }
}

// Blocks first, first + 1, ... in row-major order.
void DummyCheckpoint::FillBlocks(uint32_t id, const TensorInfo& tensor, Distribution d,
                                 int64_t first, std::span<std::byte> out) const {
  const BlockRecipe& recipe = RecipeOf(tensor.format);
  const auto size = static_cast<size_t>(InfoOf(tensor.format).block_bytes);
  const double scale = d.deviation / std::sqrt((recipe.levels * recipe.levels - 1.0) / 12.0);
  for (size_t i = 0; i < out.size() / size; ++i) {
    const auto block = static_cast<uint64_t>(first) + i;
    std::byte* at = &out[i * size];
    for (uint32_t part = 0; part * 16 < size; ++part) {
      const std::array<uint32_t, 4> bits = Philox(
          seed_, {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), id, part + 1});
      std::memcpy(at + part * 16, bits.data(), std::min<size_t>(16, size - part * 16));
    }
    PutHalf(at + recipe.scale_at, scale);
    if (recipe.minimum_at >= 0) PutHalf(at + recipe.minimum_at, scale * recipe.minimum);
    for (int c = 0; c < recipe.constants; ++c) {
      const bool packed_tail = recipe.constants == 12 && c >= 8;
      at[recipe.constants_at + c] = static_cast<std::byte>(packed_tail ? 0x11 : 0x01);
    }
  }
}

Status DummyCheckpoint::ReadRows(const TensorInfo& tensor, Range rows, Range cols,
                                 std::span<std::byte> out) const {
  CHECK(tensors_.data() <= &tensor && &tensor < tensors_.data() + tensors_.size());
  const auto id = static_cast<uint32_t>(&tensor - tensors_.data());
  const auto role = static_cast<TensorRole>(id % kTensorRoles);
  const TensorPiece piece = PieceOf(tensor, rows, cols);
  const auto part = static_cast<size_t>(piece.row_bytes);
  CHECK(out.size() == static_cast<size_t>(piece.rows) * part);
  const Distribution d = DistributionOf(role, tensor.cols);
  const int64_t block = InfoOf(tensor.format).block_elements;
  for (int64_t r = 0; r < piece.rows; ++r) {
    const int64_t first = ((rows.begin + r) * tensor.cols + piece.stored_col_begin) / block;
    const auto row = out.subspan(static_cast<size_t>(r) * part, part);
    if (block == 1) {
      FillFloats(id, tensor, d, first, row);
    } else {
      FillBlocks(id, tensor, d, first, row);
    }
  }
  bytes_made_.fetch_add(out.size(), std::memory_order_relaxed);
  return {};
}

}  // namespace

std::unique_ptr<Checkpoint> MakeDummyCheckpoint(ModelConfig config,
                                                const CheckpointOptions& options,
                                                const std::string& source) {
  return std::make_unique<DummyCheckpoint>(std::move(config), options, source);
}

}  // namespace echelon
