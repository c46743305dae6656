#pragma once
// How a checkpoint stores the elements of a tensor: the one table of formats. A row of a matrix is
// a whole number of blocks; `block_elements` values take `block_bytes` bytes (GGML's layouts).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace echelon {

enum class TensorFormat : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

struct TensorFormatInfo {
  TensorFormat format;
  std::string_view name;  // as GGUF tools print it: "Q4_1"
  uint32_t ggml_type;     // the number in a GGUF file
  int block_elements;
  int block_bytes;
};

std::span<const TensorFormatInfo> TensorFormats();
const TensorFormatInfo& InfoOf(TensorFormat format);
const TensorFormatInfo* FindGgmlType(uint32_t ggml_type);  // null where we cannot read it

}  // namespace echelon
