// Attention on the tensor cores over keys and values of signed bytes with scales.

#include "kernels/cuda/attention_mma_kernels.cuh"

namespace echelon::cuda {

void LaunchMmaSplitsQ8(Stream stream, const AttentionParams& params) {
  LaunchMmaSplits<KvType::kQ8_0>(stream, params);
}
void LaunchMmaWholeQ8(Stream stream, const AttentionParams& params) {
  LaunchMmaWhole<KvType::kQ8_0>(stream, params);
}

}  // namespace echelon::cuda
