#include "kernels/quant/quant.h"

#include "common/check.h"
#include "common/half.h"

namespace echelon {

namespace {
// THE list: a new format is one row here and one in common/tensor_format.cc.
constexpr const QuantFormat* kFormats[] = {&kQuantQ4_0, &kQuantQ4_1, &kQuantQ5_0, &kQuantQ5_1,
                                           &kQuantQ8_0, &kQuantQ4_K, &kQuantQ5_K, &kQuantQ6_K};

constexpr int kGroupsMax = 8;  // 256 elements of a K-quant block / 32

void DequantizeBlocks(const QuantFormat& quant, const std::byte* row, int64_t elements,
                      float* out) {
  const TensorFormatInfo& info = InfoOf(quant.format);
  CodeGroup groups[kGroupsMax];
  for (int64_t begin = 0; begin < elements; begin += info.block_elements) {
    quant.unpack(row, groups);
    for (int g = 0; g < info.block_elements / kCodeGroup; ++g) {
      const CodeGroup& group = groups[g];
      for (int i = 0; i < kCodeGroup; ++i) {
        const float code = static_cast<float>(group.codes[i] - quant.offset);
        out[i] = group.scale[i / 16] * code + group.min;
      }
      out += kCodeGroup;
    }
    row += info.block_bytes;
  }
}
}  // namespace

const QuantFormat* FindQuantFormat(TensorFormat format) {
  for (const QuantFormat* quant : kFormats) {
    if (quant->format == format) return quant;
  }
  return nullptr;
}

void DequantizeRow(TensorFormat format, const std::byte* row, int64_t elements, float* out) {
  CHECK(elements % InfoOf(format).block_elements == 0);
  switch (format) {
    case TensorFormat::kF32:
      std::memcpy(out, row, static_cast<size_t>(elements) * sizeof(float));
      return;
    case TensorFormat::kF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = HalfToFloat(LoadU16(row + 2 * i));
      return;
    case TensorFormat::kBF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = Bfloat16ToFloat(LoadU16(row + 2 * i));
      return;
    default: {
      const QuantFormat* quant = FindQuantFormat(format);
      CHECK(quant != nullptr);
      DequantizeBlocks(*quant, row, elements, out);
    }
  }
}

bool QuantizeRow(TensorFormat format, const float* values, int64_t elements, std::byte* row) {
  const TensorFormatInfo& info = InfoOf(format);
  CHECK(elements % info.block_elements == 0);
  switch (format) {
    case TensorFormat::kF32:
      std::memcpy(row, values, static_cast<size_t>(elements) * sizeof(float));
      return true;
    case TensorFormat::kF16:
      for (int64_t i = 0; i < elements; ++i) StoreU16(FloatToHalf(values[i]), row + 2 * i);
      return true;
    case TensorFormat::kBF16:
      for (int64_t i = 0; i < elements; ++i) StoreU16(FloatToBfloat16(values[i]), row + 2 * i);
      return true;
    default: {
      const QuantFormat* quant = FindQuantFormat(format);
      CHECK(quant != nullptr);
      if (quant->quantize == nullptr) return false;
      for (int64_t i = 0; i < elements; i += info.block_elements) {
        quant->quantize(values + i, row);
        row += info.block_bytes;
      }
      return true;
    }
  }
}

}  // namespace echelon
