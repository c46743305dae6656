#pragma once
// The table of an instruction set (kernels.h), made of its vector types V.

#include "kernels/cpu/attention_kinds_inl.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/matmul_inl.h"
#include "kernels/cpu/rows_inl.h"

namespace echelon::cpu {
namespace {

template <typename V>
constexpr CpuKernels kKernelsOf = {
    .isa = V::kName,
    .title = V::kTitle,
    .byte_tokens = V::kByteTokens,
    .quantise = QuantiseRows<V>,
    .matmul = MatMulPanels<V>,
    .rms_norm = RmsNormRow<V>,
    .add_residual = AddResidualRow<V>,
    .add_residual_norm = AddResidualNormRow<V>,
    .gated = GatedRow<V>,
    .rotate = RotateHead,
    .store_key = StoreKey<V>,
    .store_value = StoreValue<V>,
    .pack_queries = PackQueries<V>,
    .attend_split = AttendSplit<V>,
    .merge_splits = MergeSplits<V>,
    .sum_floats = SumRow<V>,
};

}  // namespace
}  // namespace echelon::cpu
