#pragma once
// The reference's weight: the checkpoint's own bytes, row after row.

#include <vector>

#include "kernels/backend.h"
#include "kernels/host_memory.h"

namespace echelon::reference {

struct Part {
  TensorFormat format = TensorFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;  // stored; the weight uses [col_begin, col_end)
  int64_t row_bytes = 0;
  int64_t col_begin = 0, col_end = 0;
  HostBlock data;
};

class RefWeight : public Weight {
 public:
  explicit RefWeight(std::vector<Part> parts) : parts_(std::move(parts)) {
    for (const Part& part : parts_) {
      rows_ += part.rows;
      bytes_ += part.data.bytes();
    }
  }
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return parts_[0].col_end - parts_[0].col_begin; }
  size_t bytes() const override { return bytes_; }
  const std::vector<Part>& parts() const { return parts_; }
  int64_t stored_cols_max() const;

  // Row r as floats. `scratch` holds stored_cols_max() values; the answer points into it.
  const float* Row(int64_t r, float* scratch) const;

 private:
  std::vector<Part> parts_;
  int64_t rows_ = 0;
  size_t bytes_ = 0;
};

Result<std::unique_ptr<Weight>> PackRefWeight(std::span<const HostMatrix> parts);

}  // namespace echelon::reference
