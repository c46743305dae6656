#pragma once
// What the kernel tests share: seeded matrices in every format, buffers of a backend, comparison.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace echelon::test {

// Uniform in [-scale, scale], with a few zeros.
std::vector<float> RandomFloats(int64_t n, uint64_t seed, float scale = 1.0f);

// A checkpoint's matrix with random valid blocks; values of about [-1, 1].
struct StoredMatrix {
  std::vector<std::byte> bytes;
  HostMatrix view;  // of bytes, uncut
  // The matrix cut to columns [begin, end).
  HostMatrix Cut(int64_t begin, int64_t end) const;
  // Row r of the uncut matrix, dequantised.
  std::vector<float> Row(int64_t r) const;
};
StoredMatrix RandomMatrix(TensorFormat format, int64_t rows, int64_t cols, uint64_t seed);

// Backend memory that holds floats, with a guard behind every row and behind the end, whose bits
// must not change. `stride` >= cols.
class FloatBuffer {
 public:
  FloatBuffer(Backend& backend, int64_t rows, int64_t cols, int64_t stride = 0, int64_t shift = 0);
  FloatBuffer(Backend& backend, int64_t rows, int64_t cols, const std::vector<float>& values,
              int64_t stride = 0, int64_t shift = 0);
  Tensor tensor() const { return tensor_; }
  float* data() const { return tensor_.data; }
  std::vector<float> Read() const;  // (rows, cols), dense
  bool GuardsIntact() const;

 private:
  Backend& backend_;
  std::unique_ptr<DeviceBuffer> buffer_;
  Tensor tensor_;
  int64_t shift_ = 0;
};

std::unique_ptr<Backend> MustMake(const std::string& name, int threads,
                                  const std::string& isa = "auto");
std::unique_ptr<Weight> MustPack(Backend& backend, std::vector<HostMatrix> parts);

// Equal bits, NaN equal to itself.
bool SameBits(std::span<const float> a, std::span<const float> b);

// A batch of sequences whose pages are shuffled over the cache.
class TestBatch {
 public:
  // Rows (sequence, position) in the order given; every sequence gets pages for tokens_max tokens.
  TestBatch(std::vector<std::pair<int, int>> rows, int sequences, int tokens_max, int page_tokens,
            uint64_t seed);
  BatchRows view() const;
  int pages() const { return static_cast<int>(pages_.size()); }

 private:
  std::vector<int32_t> positions_, sequences_, page_begin_, pages_;
};

// One sequence whose keys and values, random ones, lie in a layer of a cache; its queries lie in
// qkv.
struct CachedSequence {
  // `pages`: where its positions lie, in order; the cache has as many. Angles of rotation are 0.
  CachedSequence(Backend& backend, const KvShape& shape, int layer, int heads, int length,
                 std::vector<int32_t> pages);
  // Queries of all rows over this cache; `rows` and `out` are the caller's to set.
  AttentionArgs Args() const;

  std::vector<int32_t> positions, sequences, page_begin, pages;
  std::unique_ptr<KvCache> cache;
  FloatBuffer qkv;
  const int layer, heads;
};

}  // namespace echelon::test
