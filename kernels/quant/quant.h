#pragma once
// Block formats: what the bytes of a quantised row mean. Pure functions, any thread.
//
// Every quantised format is read as groups of 32 codes: value = scale * (code - offset) + min.
// One decoder per format serves both the reference (DequantizeRow) and the packers of the fast
// backends, which keep the codes. The layouts are GGML's (ggml-common.h), little-endian.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common/tensor_format.h"

namespace echelon {

inline constexpr int kCodeGroup = 32;  // elements of one CodeGroup

struct CodeGroup {
  uint8_t codes[kCodeGroup];
  float scale[2];  // of codes 0..15 and 16..31; they differ in Q6_K only
  float min;       // 0 in formats without one
  // Formats with super scales: scale[i] = super_scale * scale_codes[i], min = super_min * min_code,
  // exactly; super_scale and super_min are float16 numbers.
  float super_scale, super_min;
  int8_t scale_codes[2];
  int8_t min_code;
};

struct QuantFormat {
  TensorFormat format;
  int code_bits;  // 4, 5, 6 or 8
  int offset;     // value = scale * (code - offset) + min
  bool has_min;
  bool super_scales;  // scales and minima are small integers times a float16 number of their block;
                      // else they are float16 numbers themselves
  bool split_scales;  // a scale for 16 codes, not 32
  // Decodes one block into block_elements / 32 groups.
  void (*unpack)(const std::byte* block, CodeGroup* groups);
  // Encodes block_elements values; null for the K-quants, whose encoder is a search.
  void (*quantize)(const float* values, std::byte* block);
};

// Null for F32, F16 and BF16.
const QuantFormat* FindQuantFormat(TensorFormat format);

// `elements` values of a stored row, from its first block on; a multiple of the block's elements.
void DequantizeRow(TensorFormat format, const std::byte* row, int64_t elements, float* out);

// The inverse, for tests and random weights: rounds to nearest. False where there is no encoder.
bool QuantizeRow(TensorFormat format, const float* values, int64_t elements, std::byte* row);

// One file per family: its decoders and encoders.
extern const QuantFormat kQuantQ4_0, kQuantQ4_1;
extern const QuantFormat kQuantQ5_0, kQuantQ5_1;
extern const QuantFormat kQuantQ8_0;
extern const QuantFormat kQuantQ4_K, kQuantQ5_K, kQuantQ6_K;

inline uint16_t LoadU16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
inline void StoreU16(uint16_t value, std::byte* p) { std::memcpy(p, &value, sizeof(value)); }

}  // namespace echelon
