#pragma once
// The reference's cache: (layer, page, slot, KV head, key or value, D), in float32, float16 or Q8_0
// (blocks of a float16 scale and its bytes).

#include <vector>

#include "kernels/backend.h"
#include "kernels/host_memory.h"

namespace echelon::reference {

class RefKvCache : public KvCache {
 public:
  RefKvCache(const KvShape& shape, HostBlock data) : shape_(shape), data_(std::move(data)) {}
  const KvShape& shape() const override { return shape_; }

  std::span<std::byte> PageData(int layer, int32_t page, int32_t pages) override;

  // The slot of `position` of sequence `s`; -1 where another rank keeps it.
  int64_t SlotOf(const BatchRows& rows, int32_t s, int32_t position) const {
    const int32_t page = rows.pages[rows.page_begin[s] + position / shape_.page_tokens];
    if (page == -1) return -1;
    CHECK(page >= 0 && page < shape_.pages);
    return static_cast<int64_t>(page) * shape_.page_tokens + position % shape_.page_tokens;
  }
  enum Which { kKey = 0, kValue = 1 };
  void Write(int layer, int64_t slot, int kv_head, Which which, const float* values);
  // D values; the answer is the cache itself or `scratch`.
  const float* Read(int layer, int64_t slot, int kv_head, Which which, float* scratch) const;

 private:
  std::byte* Vector(int layer, int64_t slot, int kv_head, Which which) const {
    const int64_t slots = static_cast<int64_t>(shape_.pages) * shape_.page_tokens;
    const int64_t index = ((layer * slots + slot) * shape_.kv_heads + kv_head) * 2 + which;
    return data_.data() + index * static_cast<int64_t>(shape_.VectorBytes());
  }

  KvShape shape_;
  HostBlock data_;
};

Result<std::unique_ptr<KvCache>> AllocateRefKv(const KvShape& shape);

}  // namespace echelon::reference
