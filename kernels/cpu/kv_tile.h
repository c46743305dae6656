#pragma once
// How the keys and values of 16 positions of one KV head lie in memory: a tile of keys, which has a
// lane per position, and a tile of values, which has a lane per element.
//
//             keys                          values (rows of `stride`: D filled up to a multiple of
//             16)
//   f32, f16  (D, 16) elements              (16, stride) elements
//   q8_0      (D / 2, 16, 2) codes,         for each block of 32 elements (8, block, 2) codes,
//             (B, 16) float16 scales        then (B, 16) float16 scales
//
// Codes lie in pairs since integer products take two of them at a time: two elements of a key, two
// positions' values. B is the number of blocks of 32 elements, the last of which may be shorter.
// Inlined always: files compiled for several instruction sets share these functions.

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace echelon::cpu {

inline constexpr int kTilePositions = 16;

struct KvTileShape {
  KvType type = KvType::kF16;
  int head_dim = 0;  // D, even

  [[gnu::always_inline]] int stride() const { return (head_dim + 15) / 16 * 16; }
  [[gnu::always_inline]] int blocks() const { return (head_dim + kKvBlock - 1) / kKvBlock; }
  [[gnu::always_inline]] int64_t KeyBytes() const { return Bytes(head_dim); }
  [[gnu::always_inline]] int64_t ValueBytes() const { return Bytes(stride()); }
  // Where the scales of a tile of q8_0 begin; block b has those at [16 b, 16 b + 16).
  [[gnu::always_inline]] int64_t KeyScales() const { return int64_t{kTilePositions} * head_dim; }
  [[gnu::always_inline]] int64_t ValueScales() const { return int64_t{kTilePositions} * stride(); }
  // The code of element d of lane `lane`, in bytes from the tile's begin.
  [[gnu::always_inline]] int64_t KeyCode(int d, int lane) const {
    return int64_t{d / 2} * 2 * kTilePositions + 2 * lane + d % 2;
  }
  [[gnu::always_inline]] int64_t ValueCode(int d, int lane) const {
    const int block = d / kKvBlock * kKvBlock;
    const int width = stride() - block < kKvBlock ? stride() - block : kKvBlock;
    return int64_t{kTilePositions} * block + (lane / 2 * width + d - block) * 2 + lane % 2;
  }

 private:
  [[gnu::always_inline]] int64_t Bytes(int elements) const {
    const int64_t all = int64_t{kTilePositions} * elements;
    if (type == KvType::kQ8_0) return all + int64_t{blocks()} * kTilePositions * 2;
    return all * (type == KvType::kF32 ? 4 : 2);
  }
};

}  // namespace echelon::cpu
