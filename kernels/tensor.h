#pragma once
// Tensor: a non-owning view of a row-major matrix of float32 in a backend's memory. Shapes stand on
// declarations as (rows, cols); (T, D) means T tokens of D values. Ownership is in DeviceBuffer.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/check.h"

namespace echelon {

struct Tensor {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols

  Tensor() = default;
  Tensor(float* data, int64_t rows, int64_t cols) : Tensor(data, rows, cols, cols) {}
  Tensor(float* data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {
    CHECK(rows >= 0 && cols >= 0 && stride >= cols);
  }
  float* row(int64_t r) const { return data + r * stride; }
  Tensor Rows(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= rows);
    return Tensor(data + begin * stride, end - begin, cols, stride);
  }
  Tensor Cols(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= cols);
    return Tensor(data + begin, rows, end - begin, stride);
  }
};

inline void ExpectShape(const Tensor& t, int64_t rows, int64_t cols) {
  CHECK(t.rows == rows && t.cols == cols);
}

}  // namespace echelon
