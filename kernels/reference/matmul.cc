// The reference's MatMul. A weight row is dequantised once for all token rows; `kRowsAtOnce` rows
// share each pass over the activations: 16 rows * 2048 columns * 8 bytes = 256 KiB, half of a
// small second-level cache.

#include <algorithm>
#include <vector>

#include "kernels/reference/dot.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/reference/weight.h"

namespace echelon::reference {

namespace {
constexpr int64_t kRowsAtOnce = 16;
constexpr int64_t kTokensAtOnce = 8;  // 8 tokens * 2048 columns * 8 bytes = 128 KiB

std::vector<double> ToDouble(const Tensor& x, int64_t padded) {
  std::vector<double> wide(static_cast<size_t>(x.rows * padded), 0.0);
  for (int64_t t = 0; t < x.rows; ++t) {
    std::copy(x.row(t), x.row(t) + x.cols, wide.begin() + t * padded);
  }
  return wide;
}
}  // namespace

void ReferenceBackend::MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) {
  const auto& weight = static_cast<const RefWeight&>(w);
  ExpectShape(x, x.rows, w.cols());
  ExpectShape(out, x.rows, w.rows());
  const int64_t padded = PaddedColumns(w.cols());
  const std::vector<double> wide = ToDouble(x, padded);
  const DotRowsFunction dot_rows = BestDotRows();

  pool_.ParallelFor(w.rows(), kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    std::vector<float> scratch(weight.stored_cols_max());
    std::vector<double> rows(static_cast<size_t>((end - begin) * padded), 0.0);
    for (int64_t n = begin; n < end; ++n) {
      const float* row = weight.Row(n, scratch.data());
      std::copy(row, row + w.cols(), rows.begin() + (n - begin) * padded);
    }
    for (int64_t t = 0; t < x.rows; t += kTokensAtOnce) {
      const int64_t tokens = std::min(kTokensAtOnce, x.rows - t);
      for (int64_t n = begin; n < end; ++n) {
        double sums[kTokensAtOnce];
        dot_rows(rows.data() + (n - begin) * padded, wide.data() + t * padded, padded, tokens,
                 padded, sums);
        for (int64_t i = 0; i < tokens; ++i) {
          const double sum = bias != nullptr ? sums[i] + bias[n] : sums[i];
          out.row(t + i)[n] = static_cast<float>(sum);
        }
      }
    }
  });
}

}  // namespace echelon::reference
