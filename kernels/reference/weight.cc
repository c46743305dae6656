#include "kernels/reference/weight.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/quant/quant.h"
#include "kernels/shape_check.h"

namespace echelon::reference {

int64_t RefWeight::stored_cols_max() const {
  int64_t cols = 0;
  for (const Part& part : parts_) cols = std::max(cols, part.cols);
  return cols;
}

const float* RefWeight::Row(int64_t r, float* scratch) const {
  for (const Part& part : parts_) {
    if (r < part.rows) {
      DequantizeRow(part.format, part.data.data() + r * part.row_bytes, part.cols, scratch);
      return scratch + part.col_begin;
    }
    r -= part.rows;
  }
  CHECK_MSG(false, "row outside the weight");
}

Result<std::unique_ptr<Weight>> PackRefWeight(std::span<const HostMatrix> parts) {
  CheckParts(parts);
  std::vector<Part> packed;
  for (const HostMatrix& part : parts) {
    const TensorFormatInfo& info = InfoOf(part.format);
    const int64_t row_bytes = part.cols / info.block_elements * info.block_bytes;
    ASSIGN_OR_RETURN(HostBlock data,
                     AllocateHost(static_cast<size_t>(part.rows * row_bytes), "a weight"));
    if (part.data == nullptr && part.rows > 0) {
      CHECK(part.row_bytes == row_bytes);
      RETURN_IF_ERROR(part.read(0, part.rows, data.data()));
    }
    for (int64_t r = 0; part.data != nullptr && r < part.rows; ++r) {
      std::memcpy(data.data() + r * row_bytes, part.data + r * part.row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    packed.push_back({.format = part.format,
                      .rows = part.rows,
                      .cols = part.cols,
                      .row_bytes = row_bytes,
                      .col_begin = part.col_begin,
                      .col_end = part.col_end,
                      .data = std::move(data)});
  }
  return std::unique_ptr<Weight>(new RefWeight(std::move(packed)));
}

}  // namespace echelon::reference
