// Q8_0: float16 scale d, 32 signed bytes; value = d * byte. Read as codes byte + 128, offset 128.

#include "common/half.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/quant.h"

namespace echelon {

namespace {
void UnpackQ8_0(const std::byte* block, CodeGroup* group) {
  group->scale[0] = group->scale[1] = HalfToFloat(LoadU16(block));
  group->min = 0.0f;
  for (int i = 0; i < kCodeGroup; ++i) {
    group->codes[i] = static_cast<uint8_t>(block[2 + i]) ^ 0x80u;  // two's complement + 128
  }
}

void QuantizeQ8_0(const float* values, std::byte* block) {
  const uint16_t scale = FloatToHalf(std::fabs(ExtremeOf(values)) / 127.0f);
  StoreU16(scale, block);
  for (int i = 0; i < kCodeGroup; ++i) {
    const uint8_t code = NearestCode(values[i], HalfToFloat(scale), 0.0f, 128, 255);
    block[2 + i] = static_cast<std::byte>(code ^ 0x80u);
  }
}
}  // namespace

const QuantFormat kQuantQ8_0 = {.format = TensorFormat::kQ8_0,
                                .code_bits = 8,
                                .offset = 128,
                                .has_min = false,
                                .super_scales = false,
                                .split_scales = false,
                                .unpack = UnpackQ8_0,
                                .quantize = QuantizeQ8_0};

}  // namespace echelon
