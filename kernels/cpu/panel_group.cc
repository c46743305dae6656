#include "kernels/cpu/panel_group.h"

#include <cstring>

#include "common/half.h"

namespace echelon::cpu {

namespace {
// Bits [shift, shift + bits) of the little-endian word at byte `at` hold part of a code.
struct Place {
  int at;
  int shift;
  int bits;
};

int WordAt(int row, int k) { return 2 * (2 * row + k % 2); }
// The low four bits of a code of 4 to 6 bits, and the others.
Place LowBits(int row, int k) {
  const int pair = k / 2;
  return {kLineBytes * (pair / 4) + WordAt(row, k), 4 * (pair % 4), 4};
}
Place HighBits(int code_bits, int row, int k) {
  const int bits = code_bits - 4, per_byte = 8 / bits, pair = k / 2;
  const int nth = pair / 4 * 2 + pair % 2;  // of those with the same byte of a word
  return {kLineBytes * (4 + nth / per_byte) + WordAt(row, k),
          8 * (pair % 4 / 2) + bits * (nth % per_byte), bits};
}
int ByteAt(int row, int k) { return 2 * kPanelRows * (k / 2) + 2 * row + k % 2; }

int Get(Place place, const std::byte* group) {
  return (LoadU16(group + place.at) >> place.shift) & ((1 << place.bits) - 1);
}

// A row's lanes of the lines that hold `bits` bits of every code, from bit `from` on, in the places
// that `place` tells of even columns. Each lane is written once: packing is most of a start, and
// most of packing.
template <int kLines, typename PlaceOf>
void StoreBits(const uint8_t* codes, int from, int bits, PlaceOf place, std::byte* group) {
  uint32_t lanes[kLines] = {};
  const uint32_t mask = (1u << bits) - 1;
  const int first = place(0).at;
  for (int pair = 0; pair < kPairs; ++pair) {
    const Place at = place(2 * pair);
    const uint32_t even = codes[2 * pair] >> from & mask;
    const uint32_t odd = codes[2 * pair + 1] >> from & mask;
    lanes[(at.at - first) / kLineBytes] |= (even | odd << 16) << at.shift;
  }
  for (int line = 0; line < kLines; ++line) {
    std::memcpy(group + first + kLineBytes * line, &lanes[line], sizeof(lanes[line]));
  }
}

void StoreCodes(const QuantFormat& quant, const uint8_t* codes, int row, std::byte* group) {
  if (quant.code_bits == 8) {
    for (int k = 0; k < kGroup; ++k) {
      group[ByteAt(row, k)] = static_cast<std::byte>(codes[k] - quant.offset);
    }
    return;
  }
  StoreBits<4>(
      codes, 0, 4, [row](int k) { return LowBits(row, k); }, group);
  if (quant.code_bits == 5) {
    StoreBits<1>(
        codes, 4, 1, [row](int k) { return HighBits(5, row, k); }, group);
  } else if (quant.code_bits == 6) {
    StoreBits<2>(
        codes, 4, 2, [row](int k) { return HighBits(6, row, k); }, group);
  }
}

// Code less offset.
int LoadCode(const QuantFormat& quant, const std::byte* group, int row, int k) {
  if (quant.code_bits == 8) return static_cast<int8_t>(group[ByteAt(row, k)]);
  int code = Get(LowBits(row, k), group);
  if (quant.code_bits > 4) code |= Get(HighBits(quant.code_bits, row, k), group) << 4;
  return code - quant.offset;
}

void StoreHalf(float value, int index, std::byte* halves) {
  StoreU16(FloatToHalf(value), halves + 2 * index);  // it was float16 in the file: exact
}
float LoadHalf(int index, const std::byte* halves) {
  return HalfToFloat(LoadU16(halves + 2 * index));
}

// Indices of a row's numbers behind the codes.
int ScaleIndex(const QuantFormat& quant, int row, int k) {
  return (quant.split_scales && k >= 16 ? kPanelRows : 0) + row;
}
int MinIndex(const QuantFormat& quant, int row) {
  return (quant.split_scales ? 2 : 1) * kPanelRows + row;
}
}  // namespace

GroupLayout LayoutOf(const QuantFormat& quant) {
  return {quant.code_bits, quant.has_min, quant.split_scales, quant.super_scales};
}

void StoreGroup(const QuantFormat& quant, const CodeGroup& from, int row, std::byte* group,
                std::byte* super) {
  StoreCodes(quant, from.codes, row, group);
  std::byte* numbers = group + LayoutOf(quant).CodeBytes();
  for (int k = 0; k < (quant.split_scales ? kGroup : 1); k += 16) {
    const int at = ScaleIndex(quant, row, k);
    if (quant.super_scales) {
      numbers[at] = static_cast<std::byte>(from.scale_codes[k / 16]);
    } else {
      StoreHalf(from.scale[k / 16], at, numbers);
    }
  }
  if (quant.has_min) {
    const int at = MinIndex(quant, row);
    if (quant.super_scales) {
      numbers[at] = static_cast<std::byte>(from.min_code);
    } else {
      StoreHalf(from.min, at, numbers);
    }
  }
  if (!quant.super_scales) return;
  StoreHalf(from.super_scale, row, super);
  if (quant.has_min) StoreHalf(from.super_min, kPanelRows + row, super);
}

float LoadValue(const QuantFormat& quant, const std::byte* group, const std::byte* super, int row,
                int k) {
  const std::byte* numbers = group + LayoutOf(quant).CodeBytes();
  const auto number = [&](int index, int super_index) {
    if (!quant.super_scales) return LoadHalf(index, numbers);
    return LoadHalf(super_index, super) * static_cast<float>(static_cast<int8_t>(numbers[index]));
  };
  const float code = static_cast<float>(LoadCode(quant, group, row, k));
  const float value = number(ScaleIndex(quant, row, k), row) * code;
  return quant.has_min ? value + number(MinIndex(quant, row), kPanelRows + row) : value;
}

}  // namespace echelon::cpu
