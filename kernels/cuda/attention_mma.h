#pragma once
// Launchers of the attention that goes through the tensor cores (attention_mma.cuh), a kind of
// cache each, and the sizes that host and device agree on.

#include "kernels/cuda/ops.h"

namespace echelon::cuda {

inline constexpr int kAttentionTile = 16;   // rows of mma's first operand: a query head of a token
inline constexpr int kAttentionBlock = 32;  // places whose weights meet in one product
// Warps of a block that attends whole rows, a tile each. Their queries take 64 KiB at most.
constexpr int WholeWarps(int head_dim) { return head_dim <= 128 ? 8 : 4; }

void LaunchMmaSplitsF16(Stream stream, const AttentionParams& params);
void LaunchMmaSplitsQ8(Stream stream, const AttentionParams& params);
void LaunchMmaWholeF16(Stream stream, const AttentionParams& params);
void LaunchMmaWholeQ8(Stream stream, const AttentionParams& params);

}  // namespace echelon::cuda
