#pragma once
// The reference's dot product: lane j of eight sums elements j, j + 8, ... in double; the lanes are
// added in a fixed tree. A product of two floats is exact in double (24 + 24 bits < 53), so that
// only the sums round, and an instruction set with wider vectors gives the same bits.

#include <cstdint>

namespace echelon::reference {

inline constexpr int kLanes = 8;

// Elements of a row in memory: zeros fill it up to whole lanes.
inline int64_t PaddedColumns(int64_t cols) { return (cols + kLanes - 1) / kLanes * kLanes; }

// out[t] = w . x[t] for t < tokens. w (cols), x (tokens, cols) with `stride` between rows, all
// values floats held in doubles, cols a multiple of kLanes.
using DotRowsFunction = void (*)(const double* w, const double* x, int64_t stride, int64_t tokens,
                                 int64_t cols, double* out);
void DotRowsBase(const double* w, const double* x, int64_t stride, int64_t tokens, int64_t cols,
                 double* out);
#if defined(__x86_64__)
void DotRowsAvx2(const double* w, const double* x, int64_t stride, int64_t tokens, int64_t cols,
                 double* out);
#endif
DotRowsFunction BestDotRows();

// One pair of float rows, any length.
double Dot(const float* a, const float* b, int64_t n);

}  // namespace echelon::reference
