#pragma once
// How keys and values lie in a page: index arithmetic as functions of plain values.
//
// A page of a layer holds its KV heads one after the other; of a head all keys, then all values,
// then, where they are codes (kQ8_0), the scales of keys and of values. What a lane of the tensor
// cores takes at once is one run of memory: keys lie in chunks of 8 dimensions, positions side by
// side within a chunk; values in chunks of 8 positions, dimensions side by side; scales block of 32
// dimensions by block, positions side by side. Head and page sizes that are no multiples of 8 have
// keys in pairs of dimensions and values position by position (attention.cu).

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/host_device.h"

namespace echelon::cuda {

inline constexpr int kCacheChunk = 8;  // dimensions of a key, positions of values

// Whether attention over such pages goes through the tensor cores (attention_mma.cuh). float32
// numbers would have to be sums of three there.
ECHELON_HD inline bool OnTensorCores(KvType type, int head_dim, int page_tokens) {
  return type != KvType::kF32 && head_dim % kCacheChunk == 0 && page_tokens % kCacheChunk == 0;
}

struct CacheView {
  char* data = nullptr;    // of the layer
  int64_t page_bytes = 0;  // of the layer
  int page_tokens = 0, kv_heads = 0, head_dim = 0;
  KvType type = KvType::kF16;

  ECHELON_HD bool on_tensor_cores() const { return OnTensorCores(type, head_dim, page_tokens); }
  ECHELON_HD int64_t ElementBytes() const {
    return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1;
  }
  // Elements from the start of a head's part of a page.
  ECHELON_HD int64_t KeyIndex(int slot, int d) const {
    const int chunk = on_tensor_cores() ? kCacheChunk : 2;
    return (int64_t{d / chunk} * page_tokens + slot) * chunk + d % chunk;
  }
  ECHELON_HD int64_t ValueIndex(int slot, int d) const {
    const int chunk = on_tensor_cores() ? kCacheChunk : 1;
    return int64_t{page_tokens} * head_dim + (int64_t{slot / chunk} * head_dim + d) * chunk +
           slot % chunk;
  }
  ECHELON_HD int Blocks() const { return (head_dim + kKvBlock - 1) / kKvBlock; }
  // Bytes from the start of a head's part to the float16 scale of a block of a key or a value.
  ECHELON_HD int64_t ScaleOffset(bool value, int slot, int block) const {
    return int64_t{2} * page_tokens * head_dim +
           ((int64_t{value ? Blocks() : 0} + block) * page_tokens + slot) * 2;
  }
  ECHELON_HD int64_t HeadBytes() const {
    const int64_t of_scales = type == KvType::kQ8_0 ? int64_t{2} * Blocks() : 0;
    return 2 * page_tokens * (head_dim * ElementBytes() + of_scales);
  }
  ECHELON_HD char* Head(int32_t page, int kv_head) const {
    return data + page * page_bytes + kv_head * HeadBytes();
  }
};

}  // namespace echelon::cuda
