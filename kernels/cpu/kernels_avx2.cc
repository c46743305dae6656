#include "kernels/cpu/attention_kinds_inl.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/matmul_inl.h"
#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/vec_avx2.h"

namespace echelon::cpu {

const CpuKernels& KernelsAvx2() {
  static constexpr CpuKernels kKernels = {
      .isa = Avx2::kName,
      .byte_tokens = Avx2::kDotsOfBytes ? Avx2::kTokensMax : 0,
      .quantise = QuantiseRows<Avx2>,
      .matmul = MatMulPanels<Avx2>,
      .rms_norm = RmsNormRow<Avx2>,
      .add_residual = AddResidualRow<Avx2>,
      .gated = GatedRow<Avx2>,
      .rotate = RotateHead,
      .store_key = StoreKey<Avx2>,
      .store_value = StoreValue<Avx2>,
      .pack_queries = PackQueries<Avx2>,
      .attend_split = AttendSplit<Avx2>,
      .merge_splits = MergeSplits<Avx2>,
      .sum_floats = SumRow<Avx2>,
  };
  return kKernels;
}

}  // namespace echelon::cpu
