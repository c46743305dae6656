// Norms and rotates queries and keys, stores keys and values in their pages: a warp a head of a
// row, a lane every 32nd pair. Angles and rotation in double, as in the reference. A row has a
// block for each 4 heads, which finds the angles for itself: a step of one row is a dozen blocks,
// not one.

#include "common/half.h"
#include "kernels/cuda/cache_layout.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/real_math.h"

namespace echelon::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

// Normed in place by the warp.
__device__ void NormHead(float* head, const float* weight, float eps, int dim, int lane) {
  float squares = 0.0f;
  for (int i = lane; i < dim; i += 32) squares = fmaf(head[i], head[i], squares);
  const float factor = 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(dim) + eps);
  for (int i = lane; i < dim; i += 32) head[i] = head[i] * factor * weight[i];
  __syncwarp();  // a lane rotates what others normed
}

__device__ void RotateHead(float* head, const SinCos* angles, int dim, bool interleaved, int lane) {
  for (int i = lane; i < dim / 2; i += 32) {
    float& first = head[interleaved ? 2 * i : i];
    float& second = head[interleaved ? 2 * i + 1 : i + dim / 2];
    const double x = first, y = second;
    first = static_cast<float>(x * angles[i].cos - y * angles[i].sin);
    second = static_cast<float>(y * angles[i].cos + x * angles[i].sin);
  }
  __syncwarp();  // a lane stores what others rotated
}

// Rounded as kQuantQ8_0 rounds them; a block a turn of the warp.
__device__ void StoreCodes(const CacheView& cache, char* to, bool value, int slot,
                           const float* head, int lane) {
  for (int block = 0; block < cache.Blocks(); ++block) {
    const int d = block * kKvBlock + lane;
    const float x = d < cache.head_dim ? head[d] : 0.0f;
    const uint16_t bits = FloatToHalf(WarpMax(fabsf(x)) / 127.0f);
    const float scale = HalfToFloat(bits);
    if (lane == 0) *reinterpret_cast<uint16_t*>(to + cache.ScaleOffset(value, slot, block)) = bits;
    if (d >= cache.head_dim) continue;
    const float code = scale == 0.0f ? 0.0f : fminf(fmaxf(rintf(x / scale), -128.0f), 127.0f);
    to[value ? cache.ValueIndex(slot, d) : cache.KeyIndex(slot, d)] =
        static_cast<char>(static_cast<int8_t>(code));
  }
}

__device__ void Store(const CacheView& cache, char* to, bool value, int slot, const float* head,
                      int lane) {
  if (cache.type == KvType::kQ8_0) return StoreCodes(cache, to, value, slot, head, lane);
  for (int d = lane; d < cache.head_dim; d += 32) {
    const int64_t index = value ? cache.ValueIndex(slot, d) : cache.KeyIndex(slot, d);
    if (cache.type == KvType::kF32) {
      reinterpret_cast<float*>(to)[index] = head[d];
    } else {
      reinterpret_cast<uint16_t*>(to)[index] = FloatToHalf(head[d]);
    }
  }
}

__global__ void __launch_bounds__(kThreads) RopeAppendKernel(RopeParams p) {
  auto* angles = reinterpret_cast<SinCos*>(DynamicShared());  // (head_dim / 2)
  const int64_t t = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int dim = p.head_dim, h = static_cast<int>(blockIdx.y) * kWarps + warp;
  const int32_t position = p.batch.positions[t], sequence = p.batch.sequences[t];
  const int tokens = p.cache.page_tokens, slot = position % tokens;
  const int32_t page = p.batch.pages[p.batch.page_begin[sequence] + position / tokens];
  for (int i = static_cast<int>(threadIdx.x); i < dim / 2; i += kThreads) {
    angles[i] = RealSinCos(position * p.inverse_frequency[i]);
  }
  __syncthreads();
  if (h >= p.heads + 2 * p.kv_heads) return;  // the whole warp
  float* head = p.qkv.data + t * p.qkv.stride + int64_t{h} * dim;
  if (h < p.heads + p.kv_heads) {
    const float* norm = h < p.heads ? p.query_norm : p.key_norm;
    if (norm != nullptr) NormHead(head, norm, p.norm_eps, dim, lane);
    RotateHead(head, angles, dim, p.interleaved, lane);
  }
  if (h < p.heads || page < 0) return;  // -1: another rank keeps the position
  const bool key = h < p.heads + p.kv_heads;
  const int kv_head = h - p.heads - (key ? 0 : p.kv_heads);
  Store(p.cache, p.cache.Head(page, kv_head), !key, slot, head, lane);
}

}  // namespace

void LaunchRopeAppend(Stream stream, const RopeParams& params) {
  const size_t shared = static_cast<size_t>(params.head_dim / 2) * sizeof(SinCos);
  const int heads = params.heads + 2 * params.kv_heads;
  const Grid grid = {static_cast<unsigned>(params.qkv.rows),
                     static_cast<unsigned>((heads + kWarps - 1) / kWarps)};
  Launch(stream, grid, kThreads, shared, RopeAppendKernel, params);
}

}  // namespace echelon::cuda
