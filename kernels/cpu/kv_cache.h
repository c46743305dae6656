#pragma once
// The CPU backend's cache. For a page, layer and KV head: the keys of its positions as tiles of 16,
// then the values (kv_tile.h). A page whose tokens are no multiple of 16 wastes the rest of its
// last tiles.
//
// Pages are kept in groups of 16, all layers of a group together: memory is touched as pages are
// used. With the layers apart the first token of a service would make the system clear a huge page
// for each of them (30 layers: 60 MiB, 0.2 s of a cold start); with a page's layers together a long
// context would be read in pieces of one page.

#include <cstddef>
#include <cstring>
#include <utility>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_tile.h"
#include "kernels/host_memory.h"

namespace echelon::cpu {

inline constexpr int kPageGroup = 16;

class CpuKvCache : public KvCache {
 public:
  CpuKvCache(const KvShape& shape, HostBlock data)
      : shape_(shape), tile_(TileOf(shape)), data_(std::move(data)) {}
  static size_t BytesFor(const KvShape& shape) {
    const size_t groups = (static_cast<size_t>(shape.pages) + kPageGroup - 1) / kPageGroup;
    return BlockBytes(shape) * shape.layers * groups * kPageGroup * shape.kv_heads;
  }
  const KvShape& shape() const override { return shape_; }
  const KvTileShape& tile() const { return tile_; }

  std::span<std::byte> PageData(int layer, int32_t page, int32_t pages) override {
    CHECK(0 <= page && 0 <= pages && page + pages <= shape_.pages);
    CHECK(pages <= 1 || shape_.layers == 1);
    return {Block(layer, page, 0), BlockBytes(shape_) * shape_.kv_heads * pages};
  }

  // The tiles that hold a slot of a page, in lane slot % 16.
  std::byte* Keys(int layer, int32_t page, int kv_head, int slot) const {
    return Block(layer, page, kv_head) + slot / kTilePositions * tile_.KeyBytes();
  }
  std::byte* Values(int layer, int32_t page, int kv_head, int slot) const {
    return Block(layer, page, kv_head) + Tiles(shape_) * tile_.KeyBytes() +
           slot / kTilePositions * tile_.ValueBytes();
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
  static KvTileShape TileOf(const KvShape& shape) { return {shape.type, shape.head_dim}; }
  static int Tiles(const KvShape& shape) {
    return (shape.page_tokens + kTilePositions - 1) / kTilePositions;
  }
  static size_t BlockBytes(const KvShape& shape) {
    const KvTileShape tile = TileOf(shape);
    return static_cast<size_t>(Tiles(shape) * (tile.KeyBytes() + tile.ValueBytes()));
  }
  std::byte* Block(int layer, int32_t page, int kv_head) const {
    const int64_t slot =
        (int64_t{page / kPageGroup} * shape_.layers + layer) * kPageGroup + page % kPageGroup;
    const int64_t index = slot * shape_.kv_heads + kv_head;
    return data_.data() + index * static_cast<int64_t>(BlockBytes(shape_));
  }

  KvShape shape_;
  KvTileShape tile_;
  HostBlock data_;
};

// Copies lane `from` of a tile into lane `to` of another one.
void CopyKey(const KvTileShape& shape, const void* tile, int from, void* copy, int to);
void CopyValue(const KvTileShape& shape, const void* tile, int from, void* copy, int to);

}  // namespace echelon::cpu
