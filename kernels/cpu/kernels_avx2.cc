#include "kernels/cpu/kernels_inl.h"
#include "kernels/cpu/vec_avx2.h"

namespace echelon::cpu {

const CpuKernels& KernelsAvx2() { return kKernelsOf<Avx2>; }

}  // namespace echelon::cpu
