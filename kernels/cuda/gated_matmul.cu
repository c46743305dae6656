// Gate and up of an MLP with its activation, for few rows of x: a block takes the tiles of gate and
// up of the same 32 outputs, a warp for each segment as in matmul.cu, and stores the outputs as the
// next product wants them. The bits are those of the product followed by the activation.

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/split_rows.cuh"

namespace echelon::cuda {

namespace {

constexpr int kTiles = 2 * kGroup / kTileRows;  // of weight rows: of gate, then as many of up
constexpr int kTilesOfGate = kTiles / 2;

template <Packing kPacking, int kN>
__global__ void __launch_bounds__(kSegmentThreads) GatedMatMulKernel(GatedMatMulParams p) {
  auto* shared = reinterpret_cast<float*>(DynamicShared());  // (8, kTiles, kN, 4, 32)
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t group = blockIdx.x, token_tile = int64_t{blockIdx.y} * kN;
  int64_t rows[kTiles];
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    rows[m] =
        group * kGroup + m % kTilesOfGate * kTileRows + (m < kTilesOfGate ? 0 : p.gate_up.rows / 2);
  }
  Sums<kTiles, kN> sums = {};
  AddSegment<kPacking, kTiles, kN>(p.gate_up, p.x, rows, token_tile, warp, lane, sums);
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

template <Packing kPacking, int kN>
void LaunchRows(Stream stream, const GatedMatMulParams& p) {
  const Grid grid = {Blocks(p.gate_up.rows / 2, kGroup), Blocks(p.x.Tiles(), kN)};
  const size_t shared = size_t{kSegments} * kTiles * kN * 4 * 32 * sizeof(float);  // 16 KiB * kN
  Launch(stream, grid, kSegmentThreads, shared, GatedMatMulKernel<kPacking, kN>, p);
}

template <Packing kPacking>
void LaunchPacking(Stream stream, const GatedMatMulParams& p) {
  if (p.x.rows <= kTokenTile) {
    LaunchRows<kPacking, 1>(stream, p);
  } else {
    LaunchRows<kPacking, 2>(stream, p);
  }
}

}  // namespace

void LaunchGatedMatMul(Stream stream, const GatedMatMulParams& params) {
  WithPacking(params.gate_up.packing,
              [&]<Packing kPacking>() { LaunchPacking<kPacking>(stream, params); });
}

}  // namespace echelon::cuda
