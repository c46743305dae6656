#include "kernels/cpu/vec_avxvnni.h"
#include "tests/bench/peak_inl.h"

namespace echelon::bench {
Peak MeasurePeakAvxVnni() { return MeasurePeak<cpu::AvxVnni>(); }
}  // namespace echelon::bench
