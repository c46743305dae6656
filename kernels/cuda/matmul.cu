// Products of packed weights with rows of floats. A warp computes kRows outputs of kTokens rows:
// lane l takes groups l, l + 32, ... of a weight's row in ascending order, elements in ascending
// order; the lanes' sums are added in one fixed tree. The order over K depends on the shape of the
// weight alone, so a row has the same bits in any company. Weights are read once for kTokens rows,
// 16 bytes a lane; float sums of float activations, as the reference has them but for the rounding.

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
// Activations of a tile wait in shared memory. A group takes 36 floats there, not 32: lane l reads
// 16 bytes at 144 l, so 8 lanes fall on 8 different quads of the 32 banks.
constexpr int kPitch = kGroup + 4;
constexpr int kTileElements = kTileGroups * kGroup;

struct MatMulParams {
  PartView part;
  Rows x;
  const float* bias;
  Rows out;
};

template <Packing kPacking>
__device__ void LoadGroup(const char* row, int64_t tile, int64_t lanes, int64_t lane,
                          uint32_t* words) {
  constexpr int kWords = WordsOf(kPacking), kChunks = kWords / 4, kRest = kWords % 4;
  const char* base = row + tile * (kTileGroups * kWords * 4);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const Bytes16 chunk = Load16(base + (c * lanes + lane) * 16);
#pragma unroll
    for (int w = 0; w < 4; ++w) words[4 * c + w] = chunk.word[w];
  }
  const char* rest = base + lanes * kChunks * 16 + lane * kRest * 4;
  if constexpr (kRest == 1) words[4 * kChunks] = Load4(rest);
  if constexpr (kRest == 2) {
    const Bytes8 pair = Load8(rest);
    words[4 * kChunks] = pair.word[0];
    words[4 * kChunks + 1] = pair.word[1];
  }
}

// Columns [tile * 1024 - lead, + 1024) of kTokens rows into shared memory; zeros where there are
// none.
template <int kTokens>
__device__ void StageTile(const MatMulParams& p, int64_t first_token, int64_t tile, float* staged) {
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kTileElements; i += kThreads) {
    const int t = i / kTileElements, k = i % kTileElements;
    const int64_t token = first_token + t, col = tile * kTileElements + k - p.part.lead;
    const bool there = token < p.x.rows && col >= 0 && col < p.x.cols;
    staged[(t * kTileGroups + k / kGroup) * kPitch + k % kGroup] =
        there ? p.x.data[token * p.x.stride + col] : 0.0f;
  }
}

// sums[t] += the group's elements times row t's.
template <Packing kPacking, int kTokens>
__device__ void AddGroup(const PartView& part, int64_t row, int64_t group, const uint32_t* words,
                         const float (&x)[kTokens][kGroup], float* sums) {
  GroupScale scale = {{1.0f, 1.0f}, 0.0f};
  if constexpr (IsQuantised(kPacking)) scale = ScaleAt(part, row, group);
  const float shift = 8388608.0f + static_cast<float>(part.offset);
#pragma unroll
  for (int e = 0; e < kGroup; ++e) {
    const float w = ElementOf<kPacking>(words, scale, shift, e);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) sums[t] = fmaf(w, x[t][e], sums[t]);
  }
}

template <Packing kPacking, int kTokens, int kRows>
__global__ void __launch_bounds__(kThreads) MatMulKernel(MatMulParams p) {
  auto* staged = reinterpret_cast<float*>(DynamicShared());  // (kTokens, 32, kPitch)
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t first_row = (int64_t{blockIdx.x} * kWarps + warp) * kRows;
  const int64_t first_token = int64_t{blockIdx.y} * kTokens;
  float sums[kRows][kTokens] = {};
  for (int64_t tile = 0; tile * kTileGroups < p.part.groups; ++tile) {
    __syncthreads();  // the tile before is used up
    StageTile<kTokens>(p, first_token, tile, staged);
    __syncthreads();
    const int64_t left = p.part.groups - tile * kTileGroups;
    const int64_t lanes = left < kTileGroups ? left : kTileGroups;
    if (lane >= lanes) continue;  // to the next barrier
    float x[kTokens][kGroup];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float* from = staged + (t * kTileGroups + lane) * kPitch;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) x[t][e] = from[e];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first_row + r >= p.part.rows) break;
      uint32_t words[WordsOf(kPacking)];
      LoadGroup<kPacking>(p.part.Row(first_row + r), tile, lanes, lane, words);
      AddGroup<kPacking, kTokens>(p.part, first_row + r, tile * kTileGroups + lane, words, x,
                                  sums[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      const float sum = WarpSum(sums[r][t]);
      const int64_t row = first_row + r, token = first_token + t;
      if (lane != 0 || row >= p.part.rows || token >= p.out.rows) continue;
      p.out.data[token * p.out.stride + row] = p.bias != nullptr ? sum + p.bias[row] : sum;
    }
  }
}

template <Packing kPacking, int kTokens, int kRows>
void LaunchTile(Stream stream, const MatMulParams& p) {
  const int64_t rows = int64_t{kWarps} * kRows;
  const Grid grid = {static_cast<unsigned>((p.part.rows + rows - 1) / rows),
                     static_cast<unsigned>((p.x.rows + kTokens - 1) / kTokens)};
  const size_t shared = size_t{kTokens} * kTileGroups * kPitch * sizeof(float);  // at most 18 KiB
  Launch(stream, grid, kThreads, shared, MatMulKernel<kPacking, kTokens, kRows>, p);
}

// Four rows a warp where that still fills the device twice; else one, to have more warps.
template <Packing kPacking, int kTokens>
void LaunchTokens(Stream stream, int multiprocessors, const MatMulParams& p) {
  if (p.part.rows >= int64_t{multiprocessors} * 2 * kWarps * 4) {
    LaunchTile<kPacking, kTokens, 4>(stream, p);
  } else {
    LaunchTile<kPacking, kTokens, 1>(stream, p);
  }
}

template <Packing kPacking>
void LaunchPacking(Stream stream, int multiprocessors, const MatMulParams& p) {
  if (p.x.rows == 1) {
    LaunchTokens<kPacking, 1>(stream, multiprocessors, p);
  } else {
    LaunchTokens<kPacking, 4>(stream, multiprocessors, p);
  }
}

}  // namespace

void LaunchMatMul(Stream stream, int multiprocessors, const PartView& part, Rows x,
                  const float* bias, Rows out) {
  const MatMulParams p = {part, x, bias, out};
  switch (part.packing) {
    case Packing::k4:
      return LaunchPacking<Packing::k4>(stream, multiprocessors, p);
    case Packing::k5:
      return LaunchPacking<Packing::k5>(stream, multiprocessors, p);
    case Packing::k6:
      return LaunchPacking<Packing::k6>(stream, multiprocessors, p);
    case Packing::k8:
      return LaunchPacking<Packing::k8>(stream, multiprocessors, p);
    case Packing::kF16:
      return LaunchPacking<Packing::kF16>(stream, multiprocessors, p);
    case Packing::kBF16:
      return LaunchPacking<Packing::kBF16>(stream, multiprocessors, p);
    case Packing::kF32:
      return LaunchPacking<Packing::kF32>(stream, multiprocessors, p);
  }
}

}  // namespace echelon::cuda
