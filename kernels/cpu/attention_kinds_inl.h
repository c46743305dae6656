#pragma once
// The attention kernels of the table: which body serves which kind of cache.

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/attention_q8_inl.h"
#include "kernels/cpu/kernels.h"

namespace echelon::cpu {
namespace {

template <typename V>
void PackQueries(const KvTileShape& shape, const float* const* queries, int count,
                 std::byte* packed) {
  if (shape.type == KvType::kQ8_0) {
    return PackQueryCodes<V>(queries, count, shape.head_dim, packed);
  }
  PackFloats<V>(queries, count, shape.head_dim, reinterpret_cast<float*>(packed));
}

template <typename V>
void AttendSplit(const SplitArgs& args) {
  ForQueryTiles<V>(args.count, [&]<int kQueries>(int first) {
    switch (args.shape.type) {
      case KvType::kF32:
        return AttendTile<V, KvF32<V>, kQueries>(args, first);
      case KvType::kF16:
        return AttendTile<V, KvF16<V>, kQueries>(args, first);
      case KvType::kQ8_0:
        return AttendTileQ8<V, kQueries>(args, first);
    }
  });
}

template <typename V>
void StoreKey(const KvTileShape& shape, const float* key, void* tile, int lane) {
  switch (shape.type) {
    case KvType::kF32:
      return StoreKeyFloats<V, KvF32<V>>(key, shape.head_dim, tile, lane);
    case KvType::kF16:
      return StoreKeyFloats<V, KvF16<V>>(key, shape.head_dim, tile, lane);
    case KvType::kQ8_0:
      return StoreKeyCodes<V>(shape, key, tile, lane);
  }
}

template <typename V>
void StoreValue(const KvTileShape& shape, const float* value, void* tile, int lane) {
  switch (shape.type) {
    case KvType::kF32:
      return StoreValueFloats<V, KvF32<V>>(value, shape, tile, lane);
    case KvType::kF16:
      return StoreValueFloats<V, KvF16<V>>(value, shape, tile, lane);
    case KvType::kQ8_0:
      return StoreValueCodes<V>(shape, value, tile, lane);
  }
}

}  // namespace
}  // namespace echelon::cpu
