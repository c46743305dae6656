#pragma once
// How keys and values lie in a page: index arithmetic as functions of plain values.
//
// A page of a layer holds its KV heads one after the other; of a head all keys, then all values.
// Values lie position after position: threads that own dimensions read them side by side. Keys lie
// in chunks of 16 bytes of dimensions, positions side by side within a chunk: threads that own
// positions read them side by side. (Head sizes that are no multiple of a chunk take pairs.)

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/host_device.h"

namespace echelon::cuda {

ECHELON_HD inline int ElementBytes(KvType type) { return type == KvType::kF32 ? 4 : 2; }

// Dimensions of a chunk of a key.
ECHELON_HD inline int KeyChunk(KvType type, int head_dim) {
  const int full = 16 / ElementBytes(type);
  return head_dim % full == 0 ? full : 2;
}

// Elements from the start of a head's part of a page.
ECHELON_HD inline int64_t KeyIndex(int chunk, int page_tokens, int slot, int d) {
  return (int64_t{d / chunk} * page_tokens + slot) * chunk + d % chunk;
}
ECHELON_HD inline int64_t ValueIndex(int head_dim, int page_tokens, int slot, int d) {
  return (int64_t{page_tokens} + slot) * head_dim + d;
}

ECHELON_HD inline int64_t HeadBytes(KvType type, int head_dim, int page_tokens) {
  return int64_t{2} * page_tokens * head_dim * ElementBytes(type);
}

}  // namespace echelon::cuda
