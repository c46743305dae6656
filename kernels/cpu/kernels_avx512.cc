#include "kernels/cpu/kernels_inl.h"
#include "kernels/cpu/vec_avx512.h"

namespace echelon::cpu {

const CpuKernels& KernelsAvx512() { return kKernelsOf<Avx512>; }

}  // namespace echelon::cpu
