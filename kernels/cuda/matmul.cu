// Products of packed weights with rows of floats (matmul.cuh): with few rows of x, a warp for each
// segment, each with a ring of its own (weight_ring.cuh), so that even a narrow weight has enough
// loads in flight. With many: matmul_many.cu.

#include "kernels/cuda/weight_ring.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = kSegmentThreads;

// A warp for each segment; their sums meet in shared memory.
template <Packing kPacking, Scales kScales, int kM, int kN>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(MatMulParams p) {
  auto* shared = reinterpret_cast<float*>(DynamicShared());  // rings, then (8, kM, kN, 4, 32)
  const PartView part = Known<kPacking, kScales>(p.part);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t tile = int64_t{blockIdx.x} * kM, token_tile = int64_t{blockIdx.y} * kN;
  int64_t rows[kM];
  TileRows<kM>(part, tile, rows);
  Sums<kM, kN> sums = {};
  AddSegment<kPacking, kScales>(part, p.x, rows, token_tile, warp, lane, DynamicShared(), sums);
  __syncthreads();  // no ring is read any more
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

template <Packing kPacking, Scales kScales, int kM, int kN>
void LaunchFew(Stream stream, const MatMulParams& p) {
  Launch(stream, {Blocks(p.part.Tiles(), kM), Blocks(p.x.Tiles(), kN)}, kThreads,
         Ring<kPacking, kScales, kM, kN>::kSharedBytes, FewRowsKernel<kPacking, kScales, kM, kN>,
         p);
}

template <Packing kPacking, Scales kScales>
void LaunchFormat(Stream stream, const MatMulParams& p) {
  if (p.x.rows <= kTokenTile) {
    LaunchFew<kPacking, kScales, 1, 1>(stream, p);
  } else if (p.x.rows <= 2 * kTokenTile) {
    LaunchFew<kPacking, kScales, 1, 2>(stream, p);
  } else {
    LaunchFew<kPacking, kScales, 2, 4>(stream, p);
  }
}

}  // namespace

void LaunchMatMul(Stream stream, int multiprocessors, const PartView& part, const SplitRows& x,
                  const float* bias, Rows out) {
  const MatMulParams p = {part, x, bias, out};
  if (LaunchManyRows(stream, multiprocessors, p)) return;
  WithFormat(part, [&]<Packing kPacking, Scales kScales>() {
    LaunchFormat<kPacking, kScales>(stream, p);
  });
}

}  // namespace echelon::cuda
