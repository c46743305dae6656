#include "kernels/reference/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/half.h"
#include "kernels/quant/quant.h"
#include "kernels/shape_check.h"

namespace echelon::reference {

namespace {
constexpr int kBlockBytes = 2 + kKvBlock;  // a whole block: scale and codes

void WriteBlocks(const float* values, int dim, std::byte* to) {
  for (int begin = 0; begin < dim; begin += kKvBlock, to += kBlockBytes) {
    const int count = std::min(dim - begin, kKvBlock);
    float filled[kKvBlock] = {};
    std::copy_n(values + begin, count, filled);
    std::byte block[kBlockBytes];
    kQuantQ8_0.quantize(filled, block);
    std::copy_n(block, 2 + count, to);
  }
}

void ReadBlocks(const std::byte* from, int dim, float* values) {
  for (int i = 0; i < dim; ++i) {
    const std::byte* block = from + i / kKvBlock * kBlockBytes;
    const auto code = static_cast<int8_t>(block[2 + i % kKvBlock]);
    values[i] = HalfToFloat(LoadU16(block)) * static_cast<float>(code);
  }
}
}  // namespace

void RefKvCache::Write(int layer, int64_t slot, int kv_head, Which which, const float* values) {
  std::byte* to = Vector(layer, slot, kv_head, which);
  const int dim = shape_.head_dim;
  switch (shape_.type) {
    case KvType::kF32:
      std::memcpy(to, values, dim * sizeof(float));
      return;
    case KvType::kF16:
      for (int i = 0; i < dim; ++i) StoreU16(FloatToHalf(values[i]), to + 2 * i);
      return;
    case KvType::kQ8_0:
      return WriteBlocks(values, dim, to);
  }
}

const float* RefKvCache::Read(int layer, int64_t slot, int kv_head, Which which,
                              float* scratch) const {
  const std::byte* from = Vector(layer, slot, kv_head, which);
  if (shape_.type == KvType::kF32) return reinterpret_cast<const float*>(from);
  if (shape_.type == KvType::kQ8_0) {
    ReadBlocks(from, shape_.head_dim, scratch);
    return scratch;
  }
  for (int i = 0; i < shape_.head_dim; ++i) scratch[i] = HalfToFloat(LoadU16(from + 2 * i));
  return scratch;
}

std::span<std::byte> RefKvCache::PageData(int layer, int32_t page, int32_t pages) {
  CHECK(0 <= page && 0 <= pages && page + pages <= shape_.pages);
  const uint64_t page_bytes = shape_.PageBytes() / shape_.layers;
  const uint64_t at = (uint64_t(layer) * shape_.pages + page) * page_bytes;
  return {data_.data() + at, page_bytes * pages};
}

Result<std::unique_ptr<KvCache>> AllocateRefKv(const KvShape& shape) {
  CheckKvShape(shape);
  ASSIGN_OR_RETURN(
      HostBlock data,
      AllocateHost(shape.PageBytes() * static_cast<uint64_t>(shape.pages), "the key-value cache"));
  return std::unique_ptr<KvCache>(new RefKvCache(shape, std::move(data)));
}

}  // namespace echelon::reference
