#include "kernels/cpu/kv_cache.h"

namespace echelon::cpu {

namespace {
// The scales of a lane: one float16 number a block.
void CopyScales(int blocks, const std::byte* scales, int from, std::byte* copy, int to) {
  for (int b = 0; b < blocks; ++b) {
    std::memcpy(copy + (b * kTilePositions + to) * 2, scales + (b * kTilePositions + from) * 2, 2);
  }
}
size_t ElementBytes(const KvTileShape& shape) { return shape.type == KvType::kF32 ? 4 : 2; }
}  // namespace

void CopyKey(const KvTileShape& shape, const void* tile, int from, void* copy, int to) {
  const auto* source = static_cast<const std::byte*>(tile);
  auto* out = static_cast<std::byte*>(copy);
  if (shape.type == KvType::kQ8_0) {
    for (int d = 0; d < shape.head_dim; ++d) {
      out[shape.KeyCode(d, to)] = source[shape.KeyCode(d, from)];
    }
    const int64_t scales = shape.KeyScales();
    return CopyScales(shape.blocks(), source + scales, from, out + scales, to);
  }
  const size_t size = ElementBytes(shape);
  for (int d = 0; d < shape.head_dim; ++d) {
    std::memcpy(out + (d * kTilePositions + to) * size, source + (d * kTilePositions + from) * size,
                size);
  }
}

void CopyValue(const KvTileShape& shape, const void* tile, int from, void* copy, int to) {
  const auto* source = static_cast<const std::byte*>(tile);
  auto* out = static_cast<std::byte*>(copy);
  if (shape.type == KvType::kQ8_0) {
    for (int d = 0; d < shape.stride(); ++d) {
      out[shape.ValueCode(d, to)] = source[shape.ValueCode(d, from)];
    }
    const int64_t scales = shape.ValueScales();
    return CopyScales(shape.blocks(), source + scales, from, out + scales, to);
  }
  const size_t bytes = shape.stride() * ElementBytes(shape);
  std::memcpy(out + to * bytes, source + from * bytes, bytes);
}

}  // namespace echelon::cpu
