#include "kernels/reference/dot.h"

#include "kernels/reference/dot_inl.h"

namespace echelon::reference {

void DotRowsBase(const double* w, const double* x, int64_t stride, int64_t tokens, int64_t cols,
                 double* out) {
  DotRows<2>(w, x, stride, tokens, cols, out);
}

DotRowsFunction BestDotRows() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return DotRowsAvx2;
#endif
  return DotRowsBase;
}

double Dot(const float* a, const float* b, int64_t n) {
  double l[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      l[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    }
  }
  for (int j = 0; i + j < n; ++j) l[j] += static_cast<double>(a[i + j]) * b[i + j];
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

}  // namespace echelon::reference
