// Q4_0: float16 scale d, 16 bytes of codes; value = d * (code - 8).
// Q4_1: float16 scale d, float16 min m, 16 bytes of codes; value = d * code + m.
// Byte j holds element j in its low half and element j + 16 in its high half.

#include "common/half.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/quant.h"

namespace echelon {

namespace {
void UnpackNibbles(const std::byte* bytes, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    const uint8_t byte = static_cast<uint8_t>(bytes[j]);
    codes[j] = byte & 0xf;
    codes[j + 16] = byte >> 4;
  }
}

void PackNibbles(const uint8_t* codes, std::byte* bytes) {
  for (int j = 0; j < 16; ++j) bytes[j] = static_cast<std::byte>(codes[j] | (codes[j + 16] << 4));
}

void UnpackQ4_0(const std::byte* block, CodeGroup* group) {
  group->scale[0] = group->scale[1] = HalfToFloat(LoadU16(block));
  group->min = 0.0f;
  UnpackNibbles(block + 2, group->codes);
}

void UnpackQ4_1(const std::byte* block, CodeGroup* group) {
  group->scale[0] = group->scale[1] = HalfToFloat(LoadU16(block));
  group->min = HalfToFloat(LoadU16(block + 2));
  UnpackNibbles(block + 4, group->codes);
}

void QuantizeQ4_0(const float* values, std::byte* block) {
  const uint16_t scale = FloatToHalf(ExtremeOf(values) / -8.0f);  // code 0 is the extreme
  uint8_t codes[kCodeGroup];
  for (int i = 0; i < kCodeGroup; ++i) {
    codes[i] = NearestCode(values[i], HalfToFloat(scale), 0.0f, 8, 15);
  }
  StoreU16(scale, block);
  PackNibbles(codes, block + 2);
}

void QuantizeQ4_1(const float* values, std::byte* block) {
  const auto [low, high] = std::minmax_element(values, values + kCodeGroup);
  const uint16_t min = FloatToHalf(*low);
  const uint16_t scale = FloatToHalf((*high - *low) / 15.0f);
  uint8_t codes[kCodeGroup];
  for (int i = 0; i < kCodeGroup; ++i) {
    codes[i] = NearestCode(values[i], HalfToFloat(scale), HalfToFloat(min), 0, 15);
  }
  StoreU16(scale, block);
  StoreU16(min, block + 2);
  PackNibbles(codes, block + 4);
}
}  // namespace

const QuantFormat kQuantQ4_0 = {.format = TensorFormat::kQ4_0,
                                .code_bits = 4,
                                .offset = 8,
                                .has_min = false,
                                .super_scales = false,
                                .split_scales = false,
                                .unpack = UnpackQ4_0,
                                .quantize = QuantizeQ4_0};
const QuantFormat kQuantQ4_1 = {.format = TensorFormat::kQ4_1,
                                .code_bits = 4,
                                .offset = 0,
                                .has_min = true,
                                .super_scales = false,
                                .split_scales = false,
                                .unpack = UnpackQ4_1,
                                .quantize = QuantizeQ4_1};

}  // namespace echelon
