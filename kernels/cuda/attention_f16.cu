// Attention on the tensor cores over float16 keys and values.

#include "kernels/cuda/attention_mma_kernels.cuh"

namespace echelon::cuda {

void LaunchMmaSplitsF16(Stream stream, const AttentionParams& params) {
  LaunchMmaSplits<KvType::kF16>(stream, params);
}
void LaunchMmaWholeF16(Stream stream, const AttentionParams& params) {
  LaunchMmaWhole<KvType::kF16>(stream, params);
}

}  // namespace echelon::cuda
