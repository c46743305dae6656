#pragma once
// Packed weights of the CUDA backend: parts of one format each, in device memory, in the layout of
// weight_layout.h. Neighbouring parts that agree in format and columns become one, so that a
// layer's query, key and value rows are one launch.

#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/weight_layout.h"
#include "kernels/thread_pool.h"

namespace echelon::cuda {

// What a part of this format and cut looks like; no pointers yet.
PartView ShapeOf(const HostMatrix& matrix);

// A stored row of `matrix` into row `row` of `part`, whose planes are writable host memory.
void PackRow(const HostMatrix& matrix, const std::byte* stored, const PartView& part, int64_t row);

class CudaWeight : public Weight {
 public:
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return parts_[0].cols; }
  size_t bytes() const override { return bytes_; }
  const std::vector<PartView>& parts() const { return parts_; }  // pointers into device memory
  const PartView* device_parts() const {                         // the same table, there
    return reinterpret_cast<const PartView*>(table_.data());
  }

 private:
  friend class WeightPacker;
  std::vector<PartView> parts_;
  std::vector<DeviceMemory> planes_;
  DeviceMemory table_;
  int64_t rows_ = 0;
  size_t bytes_ = 0;
};

// Reads, packs on the threads of `pool` and copies, some 16 MiB at a time.
Result<std::unique_ptr<Weight>> PackCudaWeight(std::span<const HostMatrix> parts, Device& device,
                                               ThreadPool& pool);

}  // namespace echelon::cuda
