// Q5_0: float16 scale d, 32 high bits, 16 bytes of low halves; value = d * (code - 16).
// Q5_1: float16 scale d, float16 min m, high bits, low halves; value = d * code + m.
// Bit i of the high bits belongs to element i; low halves lie as in Q4.

#include "common/half.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/quant.h"

namespace echelon {

namespace {
void UnpackCodes(const std::byte* bytes, uint8_t* codes) {
  uint32_t high;
  std::memcpy(&high, bytes, sizeof(high));
  for (int j = 0; j < 16; ++j) {
    const uint8_t byte = static_cast<uint8_t>(bytes[4 + j]);
    codes[j] = (byte & 0xf) | static_cast<uint8_t>(((high >> j) & 1u) << 4);
    codes[j + 16] = (byte >> 4) | static_cast<uint8_t>(((high >> (j + 16)) & 1u) << 4);
  }
}

void PackCodes(const uint8_t* codes, std::byte* bytes) {
  uint32_t high = 0;
  for (int i = 0; i < kCodeGroup; ++i) high |= static_cast<uint32_t>(codes[i] >> 4) << i;
  std::memcpy(bytes, &high, sizeof(high));
  for (int j = 0; j < 16; ++j) {
    bytes[4 + j] = static_cast<std::byte>((codes[j] & 0xf) | ((codes[j + 16] & 0xf) << 4));
  }
}

void UnpackQ5_0(const std::byte* block, CodeGroup* group) {
  group->scale[0] = group->scale[1] = HalfToFloat(LoadU16(block));
  group->min = 0.0f;
  UnpackCodes(block + 2, group->codes);
}

void UnpackQ5_1(const std::byte* block, CodeGroup* group) {
  group->scale[0] = group->scale[1] = HalfToFloat(LoadU16(block));
  group->min = HalfToFloat(LoadU16(block + 2));
  UnpackCodes(block + 4, group->codes);
}

void QuantizeQ5_0(const float* values, std::byte* block) {
  const uint16_t scale = FloatToHalf(ExtremeOf(values) / -16.0f);  // code 0 is the extreme
  uint8_t codes[kCodeGroup];
  for (int i = 0; i < kCodeGroup; ++i) {
    codes[i] = NearestCode(values[i], HalfToFloat(scale), 0.0f, 16, 31);
  }
  StoreU16(scale, block);
  PackCodes(codes, block + 2);
}

void QuantizeQ5_1(const float* values, std::byte* block) {
  const auto [low, high] = std::minmax_element(values, values + kCodeGroup);
  const uint16_t min = FloatToHalf(*low);
  const uint16_t scale = FloatToHalf((*high - *low) / 31.0f);
  uint8_t codes[kCodeGroup];
  for (int i = 0; i < kCodeGroup; ++i) {
    codes[i] = NearestCode(values[i], HalfToFloat(scale), HalfToFloat(min), 0, 31);
  }
  StoreU16(scale, block);
  StoreU16(min, block + 2);
  PackCodes(codes, block + 4);
}
}  // namespace

const QuantFormat kQuantQ5_0 = {.format = TensorFormat::kQ5_0,
                                .code_bits = 5,
                                .offset = 16,
                                .has_min = false,
                                .super_scales = false,
                                .split_scales = false,
                                .unpack = UnpackQ5_0,
                                .quantize = QuantizeQ5_0};
const QuantFormat kQuantQ5_1 = {.format = TensorFormat::kQ5_1,
                                .code_bits = 5,
                                .offset = 0,
                                .has_min = true,
                                .super_scales = false,
                                .split_scales = false,
                                .unpack = UnpackQ5_1,
                                .quantize = QuantizeQ5_1};

}  // namespace echelon
