#pragma once
// The limit of a product that waits for no memory: multiply-adds a second that one thread gets out
// of the instructions that the kernels of the chosen instruction set are made of. Compiled once for
// each set, as the kernels are.

#include <string_view>

namespace echelon::bench {

struct Peak {
  double dots = 0.0;  // of 16-bit codes: quantised formats
  double fmas = 0.0;  // of floats: F16, BF16, F32
};

Peak MeasurePeakAvx2();
Peak MeasurePeakAvxVnni();
Peak MeasurePeakAvx512();
// Of "avx512", "avxvnni" or "avx2", which the machine has; measured once, some 10 ms.
const Peak& PeakOfThread(std::string_view isa);

}  // namespace echelon::bench
