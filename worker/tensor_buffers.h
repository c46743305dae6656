#pragma once
// TensorBuffers: float matrices in a backend's memory, freed together with the object that computes
// in them. One thread. The backend outlives it.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/step_buffers.h"
#include "kernels/backend.h"

namespace echelon {

class TensorBuffers {
 public:
  explicit TensorBuffers(Backend& backend) : backend_(backend) {}

  // Dense, undefined until written.
  Result<Tensor> New(const BufferShape& shape) {
    ASSIGN_OR_RETURN(auto buffer, backend_.Allocate(static_cast<size_t>(shape.bytes())));
    const Tensor tensor(static_cast<float*>(buffer->data()), shape.rows, shape.cols);
    bytes_ += static_cast<uint64_t>(shape.bytes());
    buffers_.push_back(std::move(buffer));
    return tensor;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  uint64_t bytes_ = 0;
};

}  // namespace echelon
