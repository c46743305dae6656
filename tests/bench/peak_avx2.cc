#include "kernels/cpu/vec_avx2.h"
#include "tests/bench/peak_inl.h"

namespace echelon::bench {
Peak MeasurePeakAvx2() { return MeasurePeak<cpu::Avx2>(); }
}  // namespace echelon::bench
