#include "kernels/cpu/vec_avx512.h"
#include "tests/bench/peak_inl.h"

namespace echelon::bench {
Peak MeasurePeakAvx512() { return MeasurePeak<cpu::Avx512>(); }
}  // namespace echelon::bench
