// Products of packed weights with rows of floats (matmul.cuh), in two ways that add the same
// numbers in the same order: few rows of x, a warp for each segment, so that even a narrow weight
// has enough loads in flight; many, 128 outputs by 64 rows for a block, whose warps share what they
// read through the first-level cache.

#include "kernels/cuda/matmul.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = kSegmentThreads;

struct MatMulParams {
  PartView part;
  SplitRows x;
  const float* bias;
  Rows out;
};

// First rows of the warp's tiles; beyond the weight, the last tile again, whose results are not
// stored.
template <int kM>
__device__ void TileRows(const PartView& part, int64_t first_tile, int64_t (&rows)[kM]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const int64_t tile = first_tile + m;
    rows[m] = (tile < part.Tiles() ? tile : part.Tiles() - 1) * kTileRows;
  }
}

__device__ void StoreOut(const MatMulParams& p, int64_t row, int64_t token, float sum) {
  if (row >= p.part.rows || token >= p.x.rows) return;
  p.out.data[token * p.out.stride + row] = p.bias != nullptr ? sum + p.bias[row] : sum;
}

// A warp for each segment; their sums meet in shared memory.
template <Packing kPacking, int kM, int kN>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(MatMulParams p) {
  auto* shared = reinterpret_cast<float*>(DynamicShared());  // (8, kM, kN, 4, 32)
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t tile = int64_t{blockIdx.x} * kM, token_tile = int64_t{blockIdx.y} * kN;
  int64_t rows[kM];
  TileRows<kM>(p.part, tile, rows);
  Sums<kM, kN> sums = {};
  AddSegment<kPacking, kM, kN>(p.part, p.x, rows, token_tile, warp, lane, sums);
  StoreSegment(warp, lane, sums, shared);
  __syncthreads();
  constexpr int kValues = kM * kN * 4;
  for (int i = static_cast<int>(threadIdx.x); i < kValues * 32; i += kThreads) {
    const float sum = AddUpSegments(shared, kValues, i);
    const int v = i / 32, of = i % 32, m = v / 4 / kN, n = v / 4 % kN;
    StoreOut(p, (tile + m) * kTileRows + of / 4 + v % 4 / 2 * 8,
             (token_tile + n) * kTokenTile + of % 4 * 2 + v % 2, sum);
  }
}

// Warps 4 by 2, each kM tiles of weight rows by kN of rows of x, one segment after the other.
template <Packing kPacking, int kM, int kN>
__global__ void __launch_bounds__(kThreads) ManyRowsKernel(MatMulParams p) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t tile = (int64_t{blockIdx.x} * 4 + warp % 4) * kM;
  const int64_t token_tile = (int64_t{blockIdx.y} * 2 + warp / 4) * kN;
  int64_t rows[kM];
  TileRows<kM>(p.part, tile, rows);
  Sums<kM, kN> totals = {};
  for (int segment = 0; segment < kSegments; ++segment) {
    Sums<kM, kN> sums = {};
    AddSegment<kPacking, kM, kN>(p.part, p.x, rows, token_tile, segment, lane, sums);
#pragma unroll
    for (int v = 0; v < kM * kN * 4; ++v) {
      totals.of[v / 4 / kN][v / 4 % kN][v % 4] += sums.of[v / 4 / kN][v / 4 % kN][v % 4];
    }
  }
#pragma unroll
  for (int v = 0; v < kM * kN * 4; ++v) {
    const int m = v / 4 / kN, n = v / 4 % kN;
    StoreOut(p, (tile + m) * kTileRows + lane / 4 + v % 4 / 2 * 8,
             (token_tile + n) * kTokenTile + lane % 4 * 2 + v % 2, totals.of[m][n][v % 4]);
  }
}

template <Packing kPacking, int kM, int kN>
void LaunchFew(Stream stream, const MatMulParams& p) {
  const size_t shared = size_t{kSegments} * kM * kN * 4 * 32 * sizeof(float);  // at most 32 KiB
  Launch(stream, {Blocks(p.part.Tiles(), kM), Blocks(p.x.Tiles(), kN)}, kThreads, shared,
         FewRowsKernel<kPacking, kM, kN>, p);
}

template <Packing kPacking>
void LaunchPacking(Stream stream, int multiprocessors, const MatMulParams& p) {
  constexpr int kM = 2, kN = 4;
  const Grid many = {Blocks(p.part.Tiles(), 4 * kM), Blocks(p.x.Tiles(), 2 * kN)};
  if (int64_t{many.x} * many.y >= multiprocessors && p.x.rows > 32) {
    Launch(stream, many, kThreads, 0, ManyRowsKernel<kPacking, kM, kN>, p);
  } else if (p.x.rows <= kTokenTile) {
    LaunchFew<kPacking, 1, 1>(stream, p);
  } else if (p.x.rows <= 2 * kTokenTile) {
    LaunchFew<kPacking, 1, 2>(stream, p);
  } else {
    LaunchFew<kPacking, kM, kN>(stream, p);
  }
}

}  // namespace

void LaunchMatMul(Stream stream, int multiprocessors, const PartView& part, const SplitRows& x,
                  const float* bias, Rows out) {
  const MatMulParams p = {part, x, bias, out};
  WithPacking(part.packing,
              [&]<Packing kPacking>() { LaunchPacking<kPacking>(stream, multiprocessors, p); });
}

}  // namespace echelon::cuda
