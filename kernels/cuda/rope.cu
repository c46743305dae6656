// Norms and rotates queries and keys, stores keys and values in their pages: one block a row, one
// warp a head, a lane every 32nd pair. Angles and rotation in double, as in the reference.

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

__device__ void Store(const CacheView& cache, char* head, int64_t index, float value) {
  if (cache.type == KvType::kF32) {
    reinterpret_cast<float*>(head)[index] = value;
  } else {
    reinterpret_cast<uint16_t*>(head)[index] = FloatToHalf(value);
  }
}

__global__ void __launch_bounds__(kThreads) RopeAppendKernel(RopeParams p) {
  auto* angles = reinterpret_cast<SinCos*>(DynamicShared());  // (head_dim / 2)
  const int64_t t = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int dim = p.head_dim;
  const int32_t position = p.batch.positions[t], sequence = p.batch.sequences[t];
  for (int i = static_cast<int>(threadIdx.x); i < dim / 2; i += kThreads) {
    angles[i] = RealSinCos(position * p.inverse_frequency[i]);
  }
  __syncthreads();
  float* row = p.qkv.data + t * p.qkv.stride;
  const int tokens = p.cache.page_tokens, slot = position % tokens;
  const int32_t page = p.batch.pages[p.batch.page_begin[sequence] + position / tokens];
  const int64_t head_bytes = HeadBytes(p.cache.type, dim, tokens);
  const int chunk = KeyChunk(p.cache.type, dim);
  for (int h = warp; h < p.heads + 2 * p.kv_heads; h += kWarps) {
    float* head = row + int64_t{h} * dim;
    if (h < p.heads + p.kv_heads) {
      const float* norm = h < p.heads ? p.query_norm : p.key_norm;
      if (norm != nullptr) NormHead(head, norm, p.norm_eps, dim, lane);
      RotateHead(head, angles, dim, p.interleaved, lane);
    }
    if (h < p.heads || page < 0) continue;  // -1: another rank keeps the position
    const bool key = h < p.heads + p.kv_heads;
    const int kv_head = h - p.heads - (key ? 0 : p.kv_heads);
    char* to = p.cache.data + page * p.cache.page_bytes + kv_head * head_bytes;
    for (int d = lane; d < dim; d += 32) {
      const int64_t index =
          key ? KeyIndex(chunk, tokens, slot, d) : ValueIndex(dim, tokens, slot, d);
      Store(p.cache, to, index, head[d]);
    }
  }
}

}  // namespace

void LaunchRopeAppend(Stream stream, const RopeParams& params) {
  const size_t shared = static_cast<size_t>(params.head_dim / 2) * sizeof(SinCos);
  Launch(stream, {static_cast<unsigned>(params.qkv.rows)}, kThreads, shared, RopeAppendKernel,
         params);
}

}  // namespace echelon::cuda
