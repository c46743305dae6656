#pragma once
// Paged keys and values in device memory: (layers, pages), so that a layer's pages lie together.

#include <cstddef>
#include <span>
#include <utility>

#include "common/check.h"
#include "kernels/backend.h"
#include "kernels/cuda/cache_layout.h"
#include "kernels/cuda/device_memory.h"

namespace echelon::cuda {

inline constexpr int kHeadDimMax = 256;  // a merge has a thread a dimension

class CudaKvCache : public KvCache {
 public:
  CudaKvCache(const KvShape& shape, DeviceMemory memory)
      : shape_(shape), memory_(std::move(memory)) {}
  const KvShape& shape() const override { return shape_; }
  std::span<std::byte> PageData(int layer, int32_t page, int32_t pages) override {
    CHECK(layer >= 0 && layer < shape_.layers && page >= 0 && page + pages <= shape_.pages);
    CHECK(pages <= 1 || shape_.layers == 1);
    const CacheView view = View(layer);
    return {reinterpret_cast<std::byte*>(view.Head(page, 0)),
            static_cast<size_t>(pages * view.page_bytes)};
  }
  CacheView View(int layer) const {
    CacheView view = {nullptr,         0,          shape_.page_tokens, shape_.kv_heads,
                      shape_.head_dim, shape_.type};
    view.page_bytes = shape_.kv_heads * view.HeadBytes();
    view.data = memory_.data() + int64_t{layer} * shape_.pages * view.page_bytes;
    return view;
  }

 private:
  const KvShape shape_;
  DeviceMemory memory_;
};

inline CacheView ViewOf(const KvCache& cache, int layer) {
  return static_cast<const CudaKvCache&>(cache).View(layer);
}

}  // namespace echelon::cuda
