#pragma once
// The CPU backend's cache. For a layer, page and KV head: the keys as tiles of 16 positions,
// (D, 16) each, then the values as rows of D, filled up with zeros to a multiple of 16. A page
// whose tokens are no multiple of 16 wastes the rest of its last key tile.

#include <cstddef>
#include <utility>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/host_memory.h"

namespace echelon::cpu {

inline constexpr int kTilePositions = 16;

class CpuKvCache : public KvCache {
 public:
  CpuKvCache(const KvShape& shape, HostBlock data) : shape_(shape), data_(std::move(data)) {}
  static size_t BytesFor(const KvShape& shape);
  const KvShape& shape() const override { return shape_; }

  std::span<std::byte> PageData(int layer, int32_t page, int32_t pages) override {
    CHECK(0 <= page && 0 <= pages && page + pages <= shape_.pages);
    return {Block(layer, page, 0), BlockBytes(shape_) * shape_.kv_heads * pages};
  }

  int element_bytes() const { return shape_.type == KvType::kF32 ? 4 : 2; }
  int value_stride() const { return RoundUp16(shape_.head_dim); }
  // Element (0, slot % 16) of the key tile that holds the slot; d is 16 * d elements on.
  std::byte* KeyLane(int layer, int32_t page, int kv_head, int slot) const {
    const int64_t tile = slot / kTilePositions;
    return Block(layer, page, kv_head) +
           (tile * shape_.head_dim * kTilePositions + slot % kTilePositions) * element_bytes();
  }
  std::byte* ValueRow(int layer, int32_t page, int kv_head, int slot) const {
    const int64_t keys = int64_t{RoundUp16(shape_.page_tokens)} * shape_.head_dim;
    return Block(layer, page, kv_head) + (keys + int64_t{slot} * value_stride()) * element_bytes();
  }
  // False: another rank keeps the position.
  bool Keeps(const BatchRows& rows, int32_t sequence, int32_t position) const {
    return rows.pages[rows.page_begin[sequence] + position / shape_.page_tokens] != -1;
  }
  // The page of a position; CHECKs that it is one of ours.
  int32_t PageOf(const BatchRows& rows, int32_t sequence, int32_t position) const {
    const int32_t page = rows.pages[rows.page_begin[sequence] + position / shape_.page_tokens];
    CHECK(page >= 0 && page < shape_.pages);
    return page;
  }

 private:
  static int RoundUp16(int n) { return (n + 15) / 16 * 16; }
  static size_t BlockBytes(const KvShape& shape);
  std::byte* Block(int layer, int32_t page, int kv_head) const {
    const int64_t index = (int64_t{layer} * shape_.pages + page) * shape_.kv_heads + kv_head;
    return data_.data() + index * static_cast<int64_t>(BlockBytes(shape_));
  }

  KvShape shape_;
  HostBlock data_;
};

inline size_t CpuKvCache::BlockBytes(const KvShape& shape) {
  const size_t keys = static_cast<size_t>(RoundUp16(shape.page_tokens)) * shape.head_dim;
  const size_t values = static_cast<size_t>(shape.page_tokens) * RoundUp16(shape.head_dim);
  return (keys + values) * (shape.type == KvType::kF32 ? 4 : 2);
}

inline size_t CpuKvCache::BytesFor(const KvShape& shape) {
  return BlockBytes(shape) * shape.layers * shape.pages * shape.kv_heads;
}

}  // namespace echelon::cpu
