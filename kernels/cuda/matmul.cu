// Products of packed weights with rows of floats (matmul.cuh): with few rows of x, a warp for each
// segment, so that even a narrow weight has enough loads in flight. With many: matmul_many.cu.

#include "kernels/cuda/matmul.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = kSegmentThreads;

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

template <Packing kPacking, int kM, int kN>
void LaunchFew(Stream stream, const MatMulParams& p) {
  const size_t shared = size_t{kSegments} * kM * kN * 4 * 32 * sizeof(float);  // at most 32 KiB
  Launch(stream, {Blocks(p.part.Tiles(), kM), Blocks(p.x.Tiles(), kN)}, kThreads, shared,
         FewRowsKernel<kPacking, kM, kN>, p);
}

template <Packing kPacking>
void LaunchPacking(Stream stream, const MatMulParams& p) {
  if (p.x.rows <= kTokenTile) {
    LaunchFew<kPacking, 1, 1>(stream, p);
  } else if (p.x.rows <= 2 * kTokenTile) {
    LaunchFew<kPacking, 1, 2>(stream, p);
  } else {
    LaunchFew<kPacking, 2, 4>(stream, p);
  }
}

}  // namespace

void LaunchMatMul(Stream stream, int multiprocessors, const PartView& part, const SplitRows& x,
                  const float* bias, Rows out) {
  const MatMulParams p = {part, x, bias, out};
  if (LaunchManyRows(stream, multiprocessors, p)) return;
  WithPacking(part.packing, [&]<Packing kPacking>() { LaunchPacking<kPacking>(stream, p); });
}

}  // namespace echelon::cuda
