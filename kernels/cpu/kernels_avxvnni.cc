#include "kernels/cpu/kernels_inl.h"
#include "kernels/cpu/vec_avxvnni.h"

namespace echelon::cpu {

const CpuKernels& KernelsAvxVnni() { return kKernelsOf<AvxVnni>; }

}  // namespace echelon::cpu
