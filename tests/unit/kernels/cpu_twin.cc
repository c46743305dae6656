#include "tests/unit/kernels/cpu_twin.h"

#include <algorithm>
#include <cmath>

#include "kernels/quant/quant.h"

namespace echelon::test {

namespace {
// 32 activations: x = scale * code, codes of 15 bits.
struct ActivationGroup {
  int codes[kCodeGroup] = {};
  float scale = 0.0f;
  float sum = 0.0f;  // scale * sum of codes
};

// Groups of 32 from the column of `x` that lies at `lead` of the first one on; zero outside.
std::vector<ActivationGroup> Quantise(const float* x, int64_t cols, int64_t lead) {
  std::vector<ActivationGroup> groups(static_cast<size_t>((cols + lead + 31) / 32));
  for (size_t g = 0; g < groups.size(); ++g) {
    ActivationGroup& group = groups[g];
    float values[kCodeGroup] = {};
    float most = 0.0f;
    for (int k = 0; k < kCodeGroup; ++k) {
      const int64_t column = static_cast<int64_t>(g) * kCodeGroup + k - lead;
      if (column >= 0 && column < cols) values[k] = x[column];
      most = std::max(most, std::fabs(values[k]));
    }
    if (most < 1e-30f) continue;
    const float inverse = 16256.0f / most;
    int sum = 0;
    for (int k = 0; k < kCodeGroup; ++k) {
      group.codes[k] = static_cast<int>(std::nearbyint(values[k] * inverse));
      sum += group.codes[k];
    }
    group.scale = most / 16256.0f;
    group.sum = group.scale * static_cast<float>(sum);
  }
  return groups;
}

// One row's groups that hold columns [col_begin, col_end).
std::vector<CodeGroup> RowGroups(const HostMatrix& matrix, int64_t row) {
  const QuantFormat& quant = *FindQuantFormat(matrix.format);
  const TensorFormatInfo& info = InfoOf(matrix.format);
  const int64_t blocks = matrix.cols / info.block_elements;
  const int per_block = info.block_elements / kCodeGroup;
  std::vector<CodeGroup> all(static_cast<size_t>(blocks * per_block));
  for (int64_t b = 0; b < blocks; ++b) {
    quant.unpack(matrix.data + row * matrix.row_bytes + b * info.block_bytes,
                 all.data() + b * per_block);
  }
  return {all.begin() + matrix.col_begin / kCodeGroup,
          all.begin() + (matrix.col_end + kCodeGroup - 1) / kCodeGroup};
}

float QuantisedDot(const QuantFormat& quant, const std::vector<CodeGroup>& row,
                   const std::vector<ActivationGroup>& x) {
  const int halves = quant.split_scales ? 2 : 1;
  float sum = 0.0f;
  for (size_t g = 0; g < row.size(); ++g) {
    for (int half = 0; half < halves; ++half) {
      int dot = 0;
      for (int k = half * 16; k < (half + 1) * kCodeGroup / halves; ++k) {
        dot += (row[g].codes[k] - quant.offset) * x[g].codes[k];
      }
      sum = std::fma(static_cast<float>(dot) * x[g].scale, row[g].scale[half], sum);
    }
    if (quant.has_min) sum = std::fma(row[g].min, x[g].sum, sum);
  }
  return sum;
}

// Column k is added to sum k mod 4.
float FloatDot(const std::vector<float>& row, const float* x) {
  float sums[4] = {};
  for (size_t k = 0; k < row.size(); ++k) sums[k % 4] = std::fma(row[k], x[k], sums[k % 4]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}
}  // namespace

std::vector<float> CpuMatMulTwin(const HostMatrix& matrix, const std::vector<float>& x,
                                 int64_t tokens, const float* bias) {
  const QuantFormat* quant = FindQuantFormat(matrix.format);
  const int64_t cols = matrix.col_end - matrix.col_begin;
  std::vector<float> out(static_cast<size_t>(tokens * matrix.rows));
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row_x = x.data() + t * cols;
    const auto groups = Quantise(row_x, cols, matrix.col_begin % kCodeGroup);
    for (int64_t n = 0; n < matrix.rows; ++n) {
      float& sum = out[static_cast<size_t>(t * matrix.rows + n)];
      if (quant != nullptr) {
        sum = QuantisedDot(*quant, RowGroups(matrix, n), groups);
      } else {
        std::vector<float> row(static_cast<size_t>(matrix.cols));
        DequantizeRow(matrix.format, matrix.data + n * matrix.row_bytes, matrix.cols, row.data());
        sum = FloatDot({row.begin() + matrix.col_begin, row.begin() + matrix.col_end}, row_x);
      }
      if (bias != nullptr) sum += bias[n];
    }
  }
  return out;
}

}  // namespace echelon::test
