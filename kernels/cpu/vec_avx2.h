#pragma once
// AVX2, FMA and F16C as the vector types the kernels are written in. Included only by *_avx2.cc,
// and by vec_avxvnni.h.
// 16 floats are two registers; lanes and the order of every sum are those of vec_avx512.h.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace echelon::cpu {
namespace {

// Lane i of the answer is all ones where i < n.
inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// 16 floats.
struct Avx2 {
  static constexpr const char* kName = "avx2";
  static constexpr const char* kTitle = "AVX2";
  static constexpr int kSums = 6;       // of attention, 2 registers each: 12 of 16
  static constexpr int kFloatTile = 1;  // tokens * 4 sums * 2 registers, of 16 in all
  static constexpr int kFloatFew = 4;   // tokens of which the four sums stand side by side
  static constexpr int kFloatPanels = 1, kFloatTokens = 6;  // of more: 12 registers of sums

  struct F {
    __m256 lo, hi;
  };
  static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F Set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void Store(float* p, F v) {
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
  }
  // The first n lanes (0 < n <= 16); the others are zero.
  static F LoadN(const float* p, int n) {
    return {_mm256_maskload_ps(p, FirstLanes(n)), _mm256_maskload_ps(p + 8, FirstLanes(n - 8))};
  }
  static void StoreN(float* p, F v, int n) {
    _mm256_maskstore_ps(p, FirstLanes(n), v.lo);
    _mm256_maskstore_ps(p + 8, FirstLanes(n - 8), v.hi);
  }
  static F LoadHalf(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
  static void StoreHalf(uint16_t* p, F v) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    __m128i* q = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(q, _mm256_cvtps_ph(v.lo, kNearest));
    _mm_storeu_si128(q + 1, _mm256_cvtps_ph(v.hi, kNearest));
  }
  static __m256 Widen(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static F LoadBfloat16(const uint16_t* p) { return {Widen(p), Widen(p + 8)}; }

  static F Add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static F Sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static F Mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static F Div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static F Fma(F a, F b, F c) {  // a * b + c
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static F Max(F a, F b) {  // b where one is NaN
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
  }
  static F Min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static F Abs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
  }
  static F Round(F a) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, kNearest), _mm256_round_ps(a.hi, kNearest)};
  }
  static __m256 Pow2(__m256 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  // 2^n for whole n in [-126, 127].
  static F Pow2(F n) { return {Pow2(n.lo), Pow2(n.hi)}; }
  // a where x >= y (or NaN), else zero.
  static F ZeroBelow(F a, F x, F y) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.lo, y.lo, _CMP_NLT_UQ), a.lo),
            _mm256_and_ps(_mm256_cmp_ps(x.hi, y.hi, _CMP_NLT_UQ), a.hi)};
  }
  static __m256 SelectRange8(__m256 a, __m256 b, int begin, int end) {
    const __m256i inside = _mm256_andnot_si256(FirstLanes(begin), FirstLanes(end));
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(inside));
  }
  // Lanes [begin, end) of a, the others of b.
  static F SelectRange(F a, F b, int begin, int end) {
    return {SelectRange8(a.lo, b.lo, begin, end), SelectRange8(a.hi, b.hi, begin - 8, end - 8)};
  }
  // Lane i + lane i + 8, then i + 4, i + 2, i + 1.
  static float SumLanes(F v) {
    const __m256 eight = _mm256_add_ps(v.lo, v.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float MaxLanes(F v) {
    const __m256 eight = _mm256_max_ps(v.lo, v.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static __m256i Words(F v) {  // 16 whole numbers, in order
    const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
    return _mm256_permute4x64_epi64(packed, 0xd8);
  }
  // Whole numbers in [-32768, 32767], 32 of them.
  static void StoreInt16(int16_t* p, F a, F b) {
    __m256i* q = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(q, Words(a));
    _mm256_storeu_si256(q + 1, Words(b));
  }
  static F LoadInt8(const std::byte* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }

  // Words of 16 bits: 32 of them, two columns of 16 rows (panel_group.h).
  // Shape of the largest tile of a product: 8 registers of dots in flight, 2 of weights and 2 of
  // activations, of 16; the tile's sums wait in the first-level cache for the end of a group.
  static constexpr int kPanelsMax = 1;
  static constexpr int kTokensMax = 4;

  struct I {
    __m256i lo, hi;  // rows 0..7, rows 8..15
  };
  static I ZeroInt() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static I LoadWords(const void* p) {
    const auto* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  static void StoreWords(void* p, I v) {
    auto* q = static_cast<__m256i*>(p);
    _mm256_store_si256(q, v.lo);
    _mm256_store_si256(q + 1, v.hi);
  }
  static I WidenBytes(const std::byte* p) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(q)), _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))};
  }
  template <int from, int bits, int to>
  static __m256i MoveBits(__m256i v) {
    if constexpr (from > to) v = _mm256_srli_epi16(v, from - to);
    if constexpr (from < to) v = _mm256_slli_epi16(v, to - from);
    if constexpr (from + bits == 16 && to == 0) return v;
    return _mm256_and_si256(v, _mm256_set1_epi16(((1 << bits) - 1) << to));
  }
  // Bits [from, from + bits) of each word, moved to bit `to`.
  template <int from, int bits, int to>
  static I MoveBits(I v) {
    return {MoveBits<from, bits, to>(v.lo), MoveBits<from, bits, to>(v.hi)};
  }
  // Of up to this many tokens codes are multiplied as bytes, four columns at a time: unpacking
  // takes half the instructions. (3 tokens: 12 registers of sums.)
  static constexpr int kByteTokens = 3;
  // Pieces of four columns that DotBytes may add up: a word of 16 bits gets two products of each,
  // at most 127 (2^bits - 1) large: 8 * 2 * 127 * 15 < 2^15, 4 * 2 * 127 * 31, 2 * 2 * 127 * 63.
  static constexpr int PiecesOfBytes(int code_bits) { return 8 >> (code_bits - 4); }
  template <int from, int bits, int to>
  static __m256i MoveBitsOfBytes(__m256i v) {
    if constexpr (from > to) v = _mm256_srli_epi32(v, from - to);
    if constexpr (from < to) v = _mm256_slli_epi32(v, to - from);
    return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(((1 << bits) - 1) << to)));
  }
  // Bits [from, from + bits) of each byte, moved to bit `to`.
  template <int from, int bits, int to>
  static I MoveBitsOfBytes(I v) {
    return {MoveBitsOfBytes<from, bits, to>(v.lo), MoveBitsOfBytes<from, bits, to>(v.hi)};
  }
  static I SetInt(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static I SetFour(const int8_t* four) {  // the same four columns for all rows
    int32_t all;
    __builtin_memcpy(&all, four, sizeof(all));
    return SetInt(all);
  }
  // sum + a[2j] b[2j] + a[2j + 1] b[2j + 1] in word j, a's bytes without sign, b's with.
  static I DotBytes(I sum, I a, I b) {
    sum = {_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(a.lo, b.lo)),
           _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(a.hi, b.hi))};
    Pin(sum);
    return sum;
  }
  // 128 * high + low of such sums, the two words of a row added up.
  static I DotOfParts(I high, I low) {
    const __m256i upper = _mm256_set1_epi16(128), lower = _mm256_set1_epi16(1);
    return AddInt({_mm256_madd_epi16(high.lo, upper), _mm256_madd_epi16(high.hi, upper)},
                  {_mm256_madd_epi16(low.lo, lower), _mm256_madd_epi16(low.hi, lower)});
  }
  static __m256i SplitCodes(F v) {
    const __m256i code = Words(v);
    const __m256i high = _mm256_srai_epi16(_mm256_add_epi16(code, _mm256_set1_epi16(64)), 7);
    const __m256i low = _mm256_sub_epi16(code, _mm256_slli_epi16(high, 7));
    const __m256i both =
        _mm256_or_si256(_mm256_slli_epi16(low, 8), _mm256_and_si256(high, _mm256_set1_epi16(0xff)));
    return _mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                         0, 8, 2, 10, 1, 9, 3, 11, 4, 12, 6, 14, 5, 13, 7, 15)));
  }
  // 32 codes in [-16256, 16256] as code = 128 high + low, low in [-64, 63]: 16 bytes for each eight
  // columns: high, then low of columns 0, 4, 1, 5; then the same of columns 2, 6, 3, 7.
  static void StoreSplitCodes(int8_t* bytes, F a, F b) {
    __m256i* q = reinterpret_cast<__m256i*>(bytes);
    _mm256_storeu_si256(q, SplitCodes(a));
    _mm256_storeu_si256(q + 1, SplitCodes(b));
  }

  static I Or(I a, I b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
  static I SubWords(I a, int16_t b) {
    const __m256i all = _mm256_set1_epi16(b);
    return {_mm256_sub_epi16(a.lo, all), _mm256_sub_epi16(a.hi, all)};
  }
  static I SetPair(const int16_t* pair) {  // the same two columns for all rows
    int32_t both;
    __builtin_memcpy(&both, pair, sizeof(both));
    return {_mm256_set1_epi32(both), _mm256_set1_epi32(both)};
  }
  // An empty instruction that hides from the compiler that sums of whole numbers may be added in
  // any order: it would multiply first, a tile's 128 products into memory, and then add them up as
  // a tree, at little more than half the speed.
  static void Pin(I& sum) { asm("" : "+x"(sum.lo), "+x"(sum.hi)); }
  // sum + a[2r] b[2r] + a[2r + 1] b[2r + 1] in lane r.
  static I Dot(I sum, I a, I b) {
    sum = AddInt(sum, {_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)});
    Pin(sum);
    return sum;
  }
  static I AddInt(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
  static F ToFloat(I v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
};

}  // namespace
}  // namespace echelon::cpu
