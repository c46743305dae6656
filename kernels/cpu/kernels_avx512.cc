#include "kernels/cpu/attention_kinds_inl.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/matmul_inl.h"
#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/vec_avx512.h"

namespace echelon::cpu {

const CpuKernels& KernelsAvx512() {
  static constexpr CpuKernels kKernels = {
      .isa = Avx512::kName,
      .byte_tokens = Avx512::kDotsOfBytes ? Avx512::kTokensMax : 0,
      .quantise = QuantiseRows<Avx512>,
      .matmul = MatMulPanels<Avx512>,
      .rms_norm = RmsNormRow<Avx512>,
      .add_residual = AddResidualRow<Avx512>,
      .gated = GatedRow<Avx512>,
      .rotate = RotateHead,
      .store_key = StoreKey<Avx512>,
      .store_value = StoreValue<Avx512>,
      .pack_queries = PackQueries<Avx512>,
      .attend_split = AttendSplit<Avx512>,
      .merge_splits = MergeSplits<Avx512>,
      .sum_floats = SumRow<Avx512>,
  };
  return kKernels;
}

}  // namespace echelon::cpu
