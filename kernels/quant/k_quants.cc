// K-quants: blocks of 256 elements with small integer scales below one float16 scale.
// Q4_K: d, dmin (float16), 12 bytes of 8 six-bit scales and 8 six-bit minima, 128 bytes of codes;
//       value = d * scale * code - dmin * min, a scale and a min for 32 elements.
// Q5_K: the same with 32 bytes of high bits before the low halves.
// Q6_K: 128 bytes of low halves, 64 of high bit pairs, 16 signed scales (for 16 elements), d;
//       value = d * scale * (code - 32).
// The products d * scale are exact in float: 11 bits times 6 (or 8).

#include "common/half.h"
#include "kernels/quant/quant.h"

namespace echelon {

namespace {
uint8_t U8(std::byte b) { return static_cast<uint8_t>(b); }

// Scales j < 4 lie in the low six bits of bytes j (scale) and j + 4 (min); the rest are put
// together from bytes j + 4 (low four bits) and the top two bits of bytes j - 4 and j.
void UnpackScaleMin(const std::byte* packed, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = U8(packed[j]) & 63;
    *min = U8(packed[j + 4]) & 63;
  } else {
    *scale = (U8(packed[j + 4]) & 0xf) | ((U8(packed[j - 4]) >> 6) << 4);
    *min = (U8(packed[j + 4]) >> 4) | ((U8(packed[j]) >> 6) << 4);
  }
}

// What follows from the super scales and the small integers.
void MultiplyScales(CodeGroup* group) {
  for (int half = 0; half < 2; ++half) {
    group->scale[half] = group->super_scale * static_cast<float>(group->scale_codes[half]);
  }
  group->min = group->super_min * static_cast<float>(group->min_code);
}

void UnpackScales(const std::byte* block, CodeGroup* groups) {
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    UnpackScaleMin(block + 4, j, &scale, &min);
    CodeGroup& group = groups[j];
    group.super_scale = HalfToFloat(LoadU16(block));
    group.super_min = -HalfToFloat(LoadU16(block + 2));
    group.scale_codes[0] = group.scale_codes[1] = static_cast<int8_t>(scale);
    group.min_code = static_cast<int8_t>(min);
    MultiplyScales(&group);
  }
}

// 32 bytes hold group 2i in their low halves and group 2i + 1 in their high halves.
void UnpackLowHalves(const std::byte* bytes, CodeGroup* groups) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int i = 0; i < kCodeGroup; ++i) {
      const uint8_t byte = U8(bytes[pair * kCodeGroup + i]);
      groups[2 * pair].codes[i] = byte & 0xf;
      groups[2 * pair + 1].codes[i] = byte >> 4;
    }
  }
}

void UnpackQ4_K(const std::byte* block, CodeGroup* groups) {
  UnpackScales(block, groups);
  UnpackLowHalves(block + 16, groups);
}

void UnpackQ5_K(const std::byte* block, CodeGroup* groups) {
  UnpackScales(block, groups);
  UnpackLowHalves(block + 48, groups);
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < kCodeGroup; ++i) {  // bit g of byte i is the high bit of element i
      groups[g].codes[i] |= static_cast<uint8_t>(((U8(block[16 + i]) >> g) & 1) << 4);
    }
  }
}

void UnpackQ6_K(const std::byte* block, CodeGroup* groups) {
  for (int g = 0; g < 8; ++g) {
    // Each half of 128 elements: 64 bytes of low halves, 32 bytes of high bit pairs; group g % 4
    // takes bytes (g % 2) * 32.., the low half for g % 4 < 2, and bit pair g % 4.
    const std::byte* low = block + (g / 4) * 64 + (g % 2) * 32;
    const std::byte* high = block + 128 + (g / 4) * 32;
    const int low_shift = (g % 4 < 2) ? 0 : 4;
    const int high_shift = 2 * (g % 4);
    for (int i = 0; i < kCodeGroup; ++i) {
      const int code = ((U8(low[i]) >> low_shift) & 0xf) | (((U8(high[i]) >> high_shift) & 3) << 4);
      groups[g].codes[i] = static_cast<uint8_t>(code);
    }
    groups[g].super_scale = HalfToFloat(LoadU16(block + 208));
    groups[g].super_min = 0.0f;
    groups[g].min_code = 0;
    for (int half = 0; half < 2; ++half) {
      groups[g].scale_codes[half] = static_cast<int8_t>(U8(block[192 + 2 * g + half]));
    }
    MultiplyScales(&groups[g]);
  }
}
}  // namespace

const QuantFormat kQuantQ4_K = {.format = TensorFormat::kQ4_K,
                                .code_bits = 4,
                                .offset = 0,
                                .has_min = true,
                                .super_scales = true,
                                .split_scales = false,
                                .unpack = UnpackQ4_K,
                                .quantize = nullptr};
const QuantFormat kQuantQ5_K = {.format = TensorFormat::kQ5_K,
                                .code_bits = 5,
                                .offset = 0,
                                .has_min = true,
                                .super_scales = true,
                                .split_scales = false,
                                .unpack = UnpackQ5_K,
                                .quantize = nullptr};
const QuantFormat kQuantQ6_K = {.format = TensorFormat::kQ6_K,
                                .code_bits = 6,
                                .offset = 32,
                                .has_min = false,
                                .super_scales = true,
                                .split_scales = true,
                                .unpack = UnpackQ6_K,
                                .quantize = nullptr};

}  // namespace echelon
