// Gate and up of an MLP with its activation, for few rows of x: a block takes the tiles of gate and
// up of the same 32 outputs, a warp for each segment as in matmul.cu, and stores the outputs as the
// next product wants them. The bits are those of the product followed by the activation.

#include "kernels/cuda/split_rows.cuh"
#include "kernels/cuda/weight_ring.cuh"

namespace echelon::cuda {

namespace {

constexpr int kTiles = 2 * kGroup / kTileRows;  // of weight rows: of gate, then as many of up
constexpr int kTilesOfGate = kTiles / 2;

template <Packing kPacking, Scales kScales, int kN>
__global__ void __launch_bounds__(kSegmentThreads) GatedMatMulKernel(GatedMatMulParams p) {
  auto* shared = reinterpret_cast<float*>(DynamicShared());  // rings, then (8, kTiles, kN, 4, 32)
  const PartView part = Known<kPacking, kScales>(p.gate_up);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t group = blockIdx.x, token_tile = int64_t{blockIdx.y} * kN;
  int64_t rows[kTiles];
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    rows[m] =
        group * kGroup + m % kTilesOfGate * kTileRows + (m < kTilesOfGate ? 0 : part.rows / 2);
  }
  Sums<kTiles, kN> sums = {};
  AddSegment<kPacking, kScales>(part, p.x, rows, token_tile, warp, lane, DynamicShared(), sums);
  __syncthreads();  // no ring is read any more
  StoreSegment(warp, lane, sums, shared);
  __syncthreads();
  // A warp for a token, a lane for an output: row lane % 16 of its tiles.
  const int row = lane % kTileRows;
  for (int t = warp; t < kN * kTokenTile; t += kSegments) {
    const int64_t token = token_tile * kTokenTile + t;
    if (token >= p.x.rows) return;
    const auto sum_of = [&](int tile) {
      const int of_tile = tile * kN + t / kTokenTile, column = t % kTokenTile;
      const int value = of_tile * 4 + row / 8 * 2 + column % 2;
      return AddUpSegments(shared, kTiles * kN * 4, value * 32 + row % 8 * 4 + column / 2);
    };
    const int tile = lane / kTileRows;
    const float out = Gated(p.silu, sum_of(tile), sum_of(kTilesOfGate + tile));
    p.out.data[token * p.out.stride + group * kGroup + lane] = out;
    StoreSplit(p.split, token, group, out);
  }
}

template <Packing kPacking, Scales kScales, int kN>
void LaunchRows(Stream stream, const GatedMatMulParams& p) {
  const Grid grid = {Blocks(p.gate_up.rows / 2, kGroup), Blocks(p.x.Tiles(), kN)};
  Launch(stream, grid, kSegmentThreads, Ring<kPacking, kScales, kTiles, kN>::kSharedBytes,
         GatedMatMulKernel<kPacking, kScales, kN>, p);
}

}  // namespace

void LaunchGatedMatMul(Stream stream, const GatedMatMulParams& params) {
  WithFormat(params.gate_up, [&]<Packing kPacking, Scales kScales>() {
    if constexpr (HasGatedMatMul(kPacking)) {
      if (params.x.rows <= kTokenTile) {
        LaunchRows<kPacking, kScales, 1>(stream, params);
      } else {
        LaunchRows<kPacking, kScales, 2>(stream, params);
      }
    }
  });
}

}  // namespace echelon::cuda
