#pragma once
// How a warp that multiplies few rows of x comes by its weights: codes, scales and supers of a
// group are copied into a ring of shared memory of its own, some groups ahead of the tensor cores
// (cp.async), so that what is on its way waits in no register and for no other warp. At 4.3 TB/s,
// 132 multiprocessors and 0.7 us from a load to its answer each of them must have 23 KB on its way;
// a block's rings have 25 to 64 KB. x is the same for all blocks of a multiprocessor: it comes
// through the first-level cache, a group ahead, in registers.

#include "common/check.h"
#include "kernels/cuda/matmul.cuh"

namespace echelon::cuda {

// How the scales of a part lie (weight_layout.h): its flags, known when kernels are compiled.
enum class Scales : uint8_t { kNone, kPlain, kMin, kSuperMin, kSuperSplit };

// The part, with what its format says as constants to the compiler.
template <Packing kPacking, Scales kScales>
ECHELON_HD PartView Known(PartView part) {
  part.packing = kPacking;
  part.has_min = kScales == Scales::kMin || kScales == Scales::kSuperMin;
  part.super_scales = kScales == Scales::kSuperMin || kScales == Scales::kSuperSplit;
  part.split_scales = kScales == Scales::kSuperSplit;
  return part;
}

// body.operator()<packing, scales>() of the part's format.
template <typename Body>
void WithFormat(const PartView& part, Body body) {
  const Scales scales = !IsQuantised(part.packing) ? Scales::kNone
                        : part.split_scales        ? Scales::kSuperSplit
                        : part.super_scales        ? Scales::kSuperMin
                        : part.has_min             ? Scales::kMin
                                                   : Scales::kPlain;
  WithPacking(part.packing, [&]<Packing kPacking>() {
    const auto with = [&]<Scales... kOf>() {
      const bool found =
          ((scales == kOf && (body.template operator()<kPacking, kOf>(), true)) || ...);
      CHECK(found);
    };
    if constexpr (!IsQuantised(kPacking)) {
      with.template operator()<Scales::kNone>();
    } else if constexpr (kPacking == Packing::k6) {
      with.template operator()<Scales::kSuperSplit>();
    } else if constexpr (kPacking == Packing::k8) {
      with.template operator()<Scales::kPlain>();
    } else {
      with.template operator()<Scales::kPlain, Scales::kMin, Scales::kSuperMin>();
    }
  });
}

// A warp's ring. A stage holds a group: of kM tiles codes, scales and supers, one tile behind the
// other; behind them, where weights have a minimum, the totals of kN tiles of x.
template <Packing kPacking, Scales kScales, int kM, int kN>
struct Ring {
  static constexpr bool kHasMin = kScales == Scales::kMin || kScales == Scales::kSuperMin;
  static constexpr bool kHasSupers = kScales == Scales::kSuperMin || kScales == Scales::kSuperSplit;
  static constexpr int kEntryBytes = kScales == Scales::kNone ? 0 : kScales == Scales::kMin ? 4 : 2;
  static constexpr int kCodeBytes = kTileRows * WordsOf(kPacking) * 4;
  static constexpr int kScaleBytes = kTileRows * kEntryBytes;
  static constexpr int kSuperBytes = kHasSupers ? kTileRows * 4 : 0;
  static constexpr int kTileBytes = kCodeBytes + kScaleBytes + kSuperBytes;
  static constexpr int kTotalBytes = kHasMin ? kTokenTile * static_cast<int>(sizeof(float)) : 0;
  static constexpr int kStageBytes = kM * kTileBytes + kN * kTotalBytes;
  // As many stages as 48 KiB of a block's 8 rings hold; of wide tiles 3, of narrow ones 12.
  static constexpr int kFit = (48 << 10) / (kSegments * kStageBytes);
  static constexpr int kStages = kFit < 3 ? 3 : kFit > 12 ? 12 : kFit;
  static constexpr int kBytes = kStages * kStageBytes;
  // The block's: rings, and once these are read, its sums.
  static constexpr size_t kSumBytes = size_t{kSegments} * kM * kN * 4 * 32 * sizeof(float);
  static constexpr size_t kSharedBytes =
      size_t{kSegments} * kBytes > kSumBytes ? size_t{kSegments} * kBytes : kSumBytes;
};

// A warp's copies into stages, one group after the other from `group` on. A lane has the same 16
// bytes of each 512 of a tile's codes; of what is left of the tile one piece of 16 bytes, or none.
template <typename Ring, int kM, int kN>
class RingCopies {
 public:
  __device__ RingCopies(const PartView& part, const SplitRows& x, const int64_t (&rows)[kM],
                        int64_t token_tile, int group, int lane)
      : lane_(lane), group_(group) {
    const int at = kWhole + lane * 16 - Ring::kCodeBytes;  // behind the codes of a tile in a stage
    const bool scale = at >= 0 && at < Ring::kScaleBytes;
    const bool super = at >= Ring::kScaleBytes && lane < kPieces;
    step_ = scale ? Ring::kScaleBytes : super ? Ring::kSuperBytes : Ring::kCodeBytes;
    turns_ = super ? kSuperGroups - 1 : 0;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      codes_[m] = part.Tile(rows[m], group) + lane * 16;
      rest_[m] = scale   ? part.ScaleOf(rows[m], group) + at
                 : super ? part.SuperOf(rows[m], group) + at - Ring::kScaleBytes
                         : codes_[m] + kWhole;
    }
    // Beyond x, its last tile again: nobody stores what comes of it.
    const int64_t wanted = token_tile + lane / 2, last = x.Tiles() - 1;
    totals_ = reinterpret_cast<const char*>(x.totals) +
              ((wanted < last ? wanted : last) * x.groups + group) * Ring::kTotalBytes +
              lane % 2 * 16;
  }

  __device__ void Begin(char* stage) {
    ++group_;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      char* const to = stage + m * Ring::kTileBytes + lane_ * 16;
#pragma unroll
      for (int at = 0; at < kWhole; at += 512) CopyAsync16(to + at, codes_[m] + at);
      codes_[m] += Ring::kCodeBytes;
      if (lane_ < kPieces) CopyAsync16(to + kWhole, rest_[m]);
      if ((group_ & turns_) == 0) rest_[m] += step_;
    }
    if (lane_ < kN * Ring::kTotalBytes / 16) {
      CopyAsync16(stage + kM * Ring::kTileBytes + lane_ * 16, totals_);
    }
    totals_ += Ring::kTotalBytes;
  }

 private:
  static constexpr int kWhole = Ring::kCodeBytes / 512 * 512;
  static constexpr int kPieces = (Ring::kTileBytes - kWhole) / 16;
  static_assert(kPieces <= 32 && kN * 2 <= 32);

  const char* codes_[kM];
  const char* rest_[kM];
  const char* totals_;
  int step_, turns_;  // of the rest: bytes, and each how many groups, less one
  int lane_, group_;
};

// A warp's rows of x, one group after the other from `group` on.
template <int kN>
class XInMemory {
 public:
  __device__ XInMemory(const SplitRows& x, int64_t token_tile, int group, int lane) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int64_t tile = token_tile + n;
      there_[n] = tile * kTokenTile + lane / 4 < x.rows;
      at_[n] = x.pairs + (tile * x.groups + group) * kSplitTileBytes + lane * 16;
    }
  }

  // What is in `to` stays where there is no row.
  __device__ void Load(XChunk (&to)[kN]) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      if (there_[n]) to[n] = {{Load16(at_[n]), Load16(at_[n] + kSplitTileBytes / 2)}};
      at_[n] += kSplitTileBytes;
    }
  }

 private:
  const char* at_[kN];
  bool there_[kN];
};

// A group in a stage, and of x in registers.
template <typename Ring, int kM, int kN>
struct TilesInRing {
  const PartView& part;
  const XChunk (&x)[kN];
  const char* stage;

  __device__ const char* Codes(int m) const { return stage + m * Ring::kTileBytes; }
  __device__ GroupScale Scale(int m, int row) const {
    const char* scales = Codes(m) + Ring::kCodeBytes;
    return ScaleOf(part, scales + row * Ring::kEntryBytes, scales + Ring::kScaleBytes + row * 4,
                   HalfBitsToFloat);
  }
  __device__ XChunk X(int n, int) const { return x[n]; }
  __device__ float Total(int n, int row) const {
    return reinterpret_cast<const float*>(stage + kM * Ring::kTileBytes)[n * kTokenTile + row];
  }
};

// A segment's products by a warp; `shared`: the block's rings.
template <Packing kPacking, Scales kScales, int kM, int kN>
__device__ void AddSegment(const PartView& part, const SplitRows& x, const int64_t (&rows)[kM],
                           int64_t token_tile, int segment, int lane, char* shared,
                           Sums<kM, kN>& sums) {
  using Ring = Ring<kPacking, kScales, kM, kN>;
  static_assert(Ring::kSharedBytes <= kSharedBytesMax);
  constexpr int kAhead = Ring::kStages - 1;
  const int each = static_cast<int>(SegmentGroups(part)), begin = segment * each;
  const int groups = static_cast<int>(part.groups);
  const int end = begin + each < groups ? begin + each : groups;
  if (begin >= end) return;  // the whole warp
  char* const ring = shared + segment * Ring::kBytes;
  RingCopies<Ring, kM, kN> copies(part, x, rows, token_tile, begin, lane);
#pragma unroll 1
  for (int ahead = 0; ahead < kAhead; ++ahead) {
    if (begin + ahead < end) copies.Begin(ring + ahead * Ring::kStageBytes);
    EndCopies();
  }
  XInMemory<kN> memory(x, token_tile, begin, lane);
  XChunk first[kN] = {}, second[kN] = {};
  memory.Load(first);
  int read = 0, free = kAhead * Ring::kStageBytes;  // stages, by their place in the ring
  const auto add = [&](int group, const XChunk(&of_x)[kN], XChunk(&next)[kN]) {
    AwaitCopies<kAhead - 1>();
    __syncwarp();  // all lanes' copies are there, and all are done with the free stage
    if (group + kAhead < end) copies.Begin(ring + free);
    EndCopies();
    if (group + 1 < end) memory.Load(next);
    const TilesInRing<Ring, kM, kN> tiles = {part, of_x, ring + read};
    AddGroup<kPacking, kM, kN>(tiles, lane, sums);
    free = read;
    read = read == kAhead * Ring::kStageBytes ? 0 : read + Ring::kStageBytes;
  };
#pragma unroll 1
  for (int group = begin; group < end; group += 2) {
    add(group, first, second);
    if (group + 1 < end) add(group + 1, second, first);
  }
}

}  // namespace echelon::cuda
