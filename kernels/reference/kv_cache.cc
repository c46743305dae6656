#include "kernels/reference/kv_cache.h"

#include <cstring>
#include <utility>

#include "common/half.h"
#include "kernels/shape_check.h"

namespace echelon::reference {

void RefKvCache::Write(int layer, int64_t slot, int kv_head, Which which, const float* values) {
  const int64_t at = Element(layer, slot, kv_head, which);
  const int dim = shape_.head_dim;
  if (shape_.type == KvType::kF32) {
    std::memcpy(data_.as<float>() + at, values, dim * sizeof(float));
  } else {
    for (int i = 0; i < dim; ++i) data_.as<uint16_t>()[at + i] = FloatToHalf(values[i]);
  }
}

const float* RefKvCache::Read(int layer, int64_t slot, int kv_head, Which which,
                              float* scratch) const {
  const int64_t at = Element(layer, slot, kv_head, which);
  if (shape_.type == KvType::kF32) return data_.as<float>() + at;
  for (int i = 0; i < shape_.head_dim; ++i) scratch[i] = HalfToFloat(data_.as<uint16_t>()[at + i]);
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
