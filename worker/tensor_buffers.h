#pragma once
// TensorBuffers: float matrices in a backend's memory, freed together with the object that computes
// in them. One thread. The backend outlives it.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common/result.h"
#include "kernels/backend.h"

namespace echelon {

class TensorBuffers {
 public:
  explicit TensorBuffers(Backend& backend) : backend_(backend) {}

  // (rows, cols), dense, undefined until written.
  Result<Tensor> New(int64_t rows, int64_t cols) {
    ASSIGN_OR_RETURN(auto buffer,
                     backend_.Allocate(static_cast<size_t>(rows * cols) * sizeof(float)));
    const Tensor tensor(static_cast<float*>(buffer->data()), rows, cols);
    buffers_.push_back(std::move(buffer));
    return tensor;
  }

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
};

}  // namespace echelon
