// Products of packed weights with many rows of x (matmul.cuh): a block's tiles of both are copied
// into shared memory some groups ahead of the tensor cores, and several warps read each of them
// there. The sums are those of few rows, to the bit.
//
// A warp of 4 tiles by 4 reads 8 KiB of a bfloat16 weight and of x for a group's 64 instructions,
// one of 2 by 4 reads 6 KiB for 32. Shared memory gives 128 bytes a cycle, and an instruction of
// the tensor cores takes about 1.6 cycles of a multiprocessor of Hopper by its published rate of
// mma.sync: 64 cycles of reading beside 100 of computing, or 48 beside 50.

#include "kernels/cuda/matmul.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kStagesMax = 4;

// Warps kWarpsM by 8 / kWarpsM, each kM tiles of weight rows by kN of rows of x. A stage holds a
// group of all the block's tiles.
template <Packing kPacking, int kWarpsM, int kM, int kN>
struct Shape {
  static constexpr int kTiles = kWarpsM * kM, kXTiles = kThreads / 32 / kWarpsM * kN;
  static constexpr int kCodeBytes = kTileRows * WordsOf(kPacking) * 4;
  static constexpr int kScaleBytesMax = IsQuantised(kPacking) ? kTileRows * 4 : 0;
  static constexpr int kTotalBytes = kTokenTile * static_cast<int>(sizeof(float));
  // Where in a stage they lie.
  static constexpr int kPairs = kTiles * kCodeBytes;
  static constexpr int kTotals = kPairs + kXTiles * kSplitTileBytes;
  static constexpr int kScales = kTotals + kXTiles * kTotalBytes;
  static constexpr int kBytes = kScales + kTiles * kScaleBytesMax;
  static constexpr int kStages = kSharedBytesMax / kBytes < kStagesMax
                                     ? static_cast<int>(kSharedBytesMax / kBytes)
                                     : kStagesMax;
  static_assert(kStages >= 2);
};

// A warp's, of which the first of the block's are `tile` and `x_tile`.
template <typename Shape, int kM>
struct TilesInShared {
  const PartView& part;
  const SplitRows& x;
  const int64_t (&rows)[kM];
  int64_t token_tile, group;
  const char* stage;
  int tile, x_tile;

  __device__ const char* Codes(int m) const { return stage + (tile + m) * Shape::kCodeBytes; }
  __device__ GroupScale Scale(int m, int row) const {
    const int64_t at = ((tile + m) * kTileRows + row) * part.ScaleBytes();
    const char* super = part.super_scales ? part.SuperOf(rows[m] + row, group) : nullptr;
    return ScaleOf(part, stage + Shape::kScales + at, super, HalfBitsToFloat);
  }
  __device__ bool HasRow(int n, int row) const {
    return (token_tile + n) * kTokenTile + row < x.rows;
  }
  __device__ XChunk X(int n, int lane) const {
    if (!HasRow(n, lane / 4)) return {};
    const char* at = stage + Shape::kPairs + (x_tile + n) * kSplitTileBytes + lane * 16;
    return {{ReadAs<Bytes16>(at), ReadAs<Bytes16>(at + kSplitTileBytes / 2)}};
  }
  __device__ float Total(int n, int row) const {
    const auto* totals = reinterpret_cast<const float*>(stage + Shape::kTotals);
    return HasRow(n, 0) ? totals[(x_tile + n) * kTokenTile + row] : 0.0f;
  }
};

// `tiles` runs of `pieces` times 16 bytes, one behind the other; from(tile): where one begins.
template <typename From>
__device__ void CopyTiles(int tiles, int pieces, char* to, From from) {
  for (int i = static_cast<int>(threadIdx.x); i < tiles * pieces; i += kThreads) {
    CopyAsync16(to + i * 16, from(i / pieces) + i % pieces * 16);
  }
}

// Begins to copy a group of the block's tiles. Beyond the weight and x, their last tiles again:
// nobody stores what comes of them.
template <typename Shape>
__device__ void CopyGroup(const MatMulParams& p, int64_t group, char* stage) {
  const int64_t last = p.part.Tiles() - 1, last_x = p.x.Tiles() - 1;
  const auto of_part = [&](int tile) {
    const int64_t wanted = int64_t{blockIdx.x} * Shape::kTiles + tile;
    return (wanted < last ? wanted : last) * p.part.groups + group;
  };
  const auto of_x = [&](int tile) {
    const int64_t wanted = int64_t{blockIdx.y} * Shape::kXTiles + tile;
    return (wanted < last_x ? wanted : last_x) * p.x.groups + group;
  };
  CopyTiles(Shape::kTiles, Shape::kCodeBytes / 16, stage,
            [&](int tile) { return p.part.codes + of_part(tile) * Shape::kCodeBytes; });
  CopyTiles(Shape::kXTiles, kSplitTileBytes / 16, stage + Shape::kPairs,
            [&](int tile) { return p.x.pairs + of_x(tile) * kSplitTileBytes; });
  if constexpr (Shape::kScaleBytesMax > 0) {
    const int bytes = static_cast<int>(p.part.ScaleBytes()) * kTileRows;
    CopyTiles(Shape::kTiles, bytes / 16, stage + Shape::kScales,
              [&](int tile) { return p.part.scales + of_part(tile) * bytes; });
    CopyTiles(Shape::kXTiles, Shape::kTotalBytes / 16, stage + Shape::kTotals, [&](int tile) {
      return reinterpret_cast<const char*>(p.x.totals) + of_x(tile) * Shape::kTotalBytes;
    });
  }
}

template <Packing kPacking, int kWarpsM, int kM, int kN>
__global__ void __launch_bounds__(kThreads) ManyRowsKernel(MatMulParams p) {
  using Shape = Shape<kPacking, kWarpsM, kM, kN>;
  constexpr int kStages = Shape::kStages;
  char* const shared = DynamicShared();  // (kStages, Shape::kBytes)
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int first = warp % kWarpsM * kM, first_x = warp / kWarpsM * kN;  // of the warp's tiles
  const int64_t tile = int64_t{blockIdx.x} * Shape::kTiles + first;
  const int64_t token_tile = int64_t{blockIdx.y} * Shape::kXTiles + first_x;
  int64_t rows[kM];
  TileRows<kM>(p.part, tile, rows);

  const int64_t groups = p.part.groups, each = SegmentGroups(p.part);
  for (int ahead = 0; ahead < kStages - 1; ++ahead) {
    if (ahead < groups) CopyGroup<Shape>(p, ahead, shared + ahead * Shape::kBytes);
    EndCopies();
  }
  Sums<kM, kN> totals = {}, sums = {};
  int64_t segment_end = each;
  int stage = 0;
  for (int64_t group = 0; group < groups; ++group) {
    AwaitCopies<kStages - 2>();
    __syncthreads();  // all have the group, and are done with the one before it, whose stage is
                      // next
    if (group + kStages - 1 < groups) {
      const int next = stage == 0 ? kStages - 1 : stage - 1;
      CopyGroup<Shape>(p, group + kStages - 1, shared + next * Shape::kBytes);
    }
    EndCopies();
    const TilesInShared<Shape, kM> tiles = {
        p.part, p.x, rows, token_tile, group, shared + stage * Shape::kBytes, first, first_x};
    AddGroup<kPacking, kM, kN>(tiles, lane, sums);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (group + 1 < segment_end && group + 1 < groups) continue;
#pragma unroll
    for (int v = 0; v < kM * kN * 4; ++v) {
      totals.of[v / 4 / kN][v / 4 % kN][v % 4] += sums.of[v / 4 / kN][v / 4 % kN][v % 4];
    }
    sums = {};
    segment_end += each;
  }
#pragma unroll
  for (int v = 0; v < kM * kN * 4; ++v) {
    const int m = v / 4 / kN, n = v / 4 % kN;
    StoreOut(p, (tile + m) * kTileRows + lane / 4 + v % 4 / 2 * 8,
             (token_tile + n) * kTokenTile + lane % 4 * 2 + v % 2, totals.of[m][n][v % 4]);
  }
}

// Where that gives at least `blocks` blocks.
template <Packing kPacking, int kWarpsM, int kM, int kN>
bool LaunchShape(Stream stream, int blocks, const MatMulParams& p) {
  using Shape = Shape<kPacking, kWarpsM, kM, kN>;
  const Grid grid = {Blocks(p.part.Tiles(), Shape::kTiles), Blocks(p.x.Tiles(), Shape::kXTiles)};
  if (int64_t{grid.x} * grid.y < blocks) return false;
  Launch(stream, grid, kThreads, size_t{Shape::kStages} * Shape::kBytes,
         ManyRowsKernel<kPacking, kWarpsM, kM, kN>, p);
  return true;
}

}  // namespace

// 128 outputs by 128 rows where that gives every multiprocessor a block; by 64 where half of them
// get one: at 64 rows by 2,048 outputs and more, blocks of few rows would read each weight twice
// and each row of x 64 times, these once and 16 times.
bool LaunchManyRows(Stream stream, int multiprocessors, const MatMulParams& p) {
  bool launched = false;
  WithPacking(p.part.packing, [&]<Packing kPacking>() {
    launched = (p.x.rows > 64 && LaunchShape<kPacking, 2, 4, 4>(stream, multiprocessors, p)) ||
               (p.x.rows > 32 && LaunchShape<kPacking, 4, 2, 4>(stream, multiprocessors / 2, p));
  });
  return launched;
}

}  // namespace echelon::cuda
