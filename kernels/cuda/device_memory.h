#pragma once
// Memory of a device as an object that frees it. Movable. The runtime outlives it.

#include <cstddef>
#include <utility>

#include "kernels/cuda/runtime.h"

namespace echelon::cuda {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Runtime& runtime, void* data, size_t bytes)
      : runtime_(&runtime), data_(data), bytes_(bytes) {}
  ~DeviceMemory() {
    if (data_ != nullptr) runtime_->Free(data_);
  }
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  char* data() const { return static_cast<char*>(data_); }
  size_t bytes() const { return bytes_; }
  // It is given back with the process: other processes may still map it, and CUDA lets none of it
  // be freed before they no longer do.
  void LeaveToProcess() { data_ = nullptr; }

 private:
  Runtime* runtime_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace echelon::cuda
