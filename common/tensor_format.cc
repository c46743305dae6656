#include "common/tensor_format.h"

#include "common/check.h"

namespace echelon {

namespace {
using F = TensorFormat;
// format, name, GGML type, elements and bytes of a block. 32-element blocks: an F16 scale (and an
// F16 minimum for _1) before the codes; K-quants: 256 elements with 6-bit scales of 32 (or 16).
constexpr TensorFormatInfo kFormats[] = {
    {F::kF32, "F32", 0, 1, 4},        {F::kF16, "F16", 1, 1, 2},
    {F::kBF16, "BF16", 30, 1, 2},     {F::kQ8_0, "Q8_0", 8, 32, 34},
    {F::kQ4_0, "Q4_0", 2, 32, 18},    {F::kQ4_1, "Q4_1", 3, 32, 20},
    {F::kQ5_0, "Q5_0", 6, 32, 22},    {F::kQ5_1, "Q5_1", 7, 32, 24},
    {F::kQ4_K, "Q4_K", 12, 256, 144}, {F::kQ5_K, "Q5_K", 13, 256, 176},
    {F::kQ6_K, "Q6_K", 14, 256, 210},
};
}  // namespace

std::span<const TensorFormatInfo> TensorFormats() { return kFormats; }

const TensorFormatInfo& InfoOf(TensorFormat format) {
  const auto& info = kFormats[static_cast<size_t>(format)];
  CHECK(info.format == format);
  return info;
}

const TensorFormatInfo* FindGgmlType(uint32_t ggml_type) {
  for (const TensorFormatInfo& info : kFormats) {
    if (info.ggml_type == ggml_type) return &info;
  }
  return nullptr;
}

}  // namespace echelon
