#include "kernels/reference/dot_inl.h"

namespace echelon::reference {

void DotRowsAvx2(const double* w, const double* x, int64_t stride, int64_t tokens, int64_t cols,
                 double* out) {
  DotRows<4>(w, x, stride, tokens, cols, out);
}

}  // namespace echelon::reference
