#pragma once
// AVX-512 with VNNI as the vector types the kernels are written in. Included only by *_avx512.cc.
// Same lanes, same order of every sum as vec_avx2.h: the two give the same bits.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace echelon::cpu {
namespace {

// 16 floats.
struct Avx512 {
  static constexpr const char* kName = "avx512vnni";
  static constexpr const char* kTitle = "AVX-512 VNNI";
  static constexpr int kSums = 24;      // of attention: 24 of 32 registers
  static constexpr int kFloatTile = 4;  // tokens * 4 sums of a float panel = 16 registers
  static constexpr int kFloatFew = 8;   // tokens of which the four sums stand side by side
  static constexpr int kFloatPanels = 2, kFloatTokens = 8;  // of more: 16 registers of sums

  using F = __m512;
  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float v) { return _mm512_set1_ps(v); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static __mmask16 First(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  // The first n lanes (0 < n <= 16); the others are zero.
  static F LoadN(const float* p, int n) { return _mm512_maskz_loadu_ps(First(n), p); }
  static void StoreN(float* p, F v, int n) { _mm512_mask_storeu_ps(p, First(n), v); }
  static F LoadHalf(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void StoreHalf(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static F LoadBfloat16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }            // b where one is NaN
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static F Round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // 2^n for whole n in [-126, 127].
  static F Pow2(F n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  // a where x >= y (or NaN), else zero.
  static F ZeroBelow(F a, F x, F y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_NLT_UQ), a);
  }
  // Lanes [begin, end) of a, the others of b.
  static F SelectRange(F a, F b, int begin, int end) {
    const uint32_t mask = ((1u << end) - 1u) & ~((1u << begin) - 1u);
    return _mm512_mask_blend_ps(static_cast<__mmask16>(mask), b, a);
  }
  // Lane i + lane i + 8, then i + 4, i + 2, i + 1.
  static float SumLanes(F v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float MaxLanes(F v) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  // Whole numbers in [-32768, 32767], 32 of them.
  static void StoreInt16(int16_t* p, F a, F b) {
    __m256i* q = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(q, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a)));
    _mm256_storeu_si256(q + 1, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(b)));
  }
  static F LoadInt8(const std::byte* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }

  // Words of 16 bits: 32 of them, two columns of 16 rows (panel_group.h).
  // Shape of the largest tile of a product: 16 sums and 16 dots in flight, of 32 registers; the
  // dots alone would do with 10 chains (5 cycles of latency, two a cycle).
  static constexpr int kPanelsMax = 2;
  static constexpr int kTokensMax = 8;

  using I = __m512i;
  static I ZeroInt() { return _mm512_setzero_si512(); }
  static I LoadWords(const void* p) { return _mm512_loadu_si512(p); }
  static void StoreWords(void* p, I v) { _mm512_store_si512(p, v); }
  static I WidenBytes(const std::byte* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // Bits [from, from + bits) of each word, moved to bit `to`.
  template <int from, int bits, int to>
  static I MoveBits(I v) {
    if constexpr (from > to) v = _mm512_srli_epi16(v, from - to);
    if constexpr (from < to) v = _mm512_slli_epi16(v, to - from);
    if constexpr (from + bits == 16 && to == 0) return v;
    return _mm512_and_si512(v, _mm512_set1_epi16(((1 << bits) - 1) << to));
  }
  // Of up to this many tokens codes are multiplied as bytes, four columns at a time: unpacking
  // takes half the instructions.
  static constexpr int kByteTokens = kTokensMax;
  // Pieces of four columns that DotBytes may add up: a lane has 32 bits.
  static constexpr int PiecesOfBytes(int) { return 8; }
  // Bits [from, from + bits) of each byte, moved to bit `to`.
  template <int from, int bits, int to>
  static I MoveBitsOfBytes(I v) {
    if constexpr (from > to) v = _mm512_srli_epi32(v, from - to);
    if constexpr (from < to) v = _mm512_slli_epi32(v, to - from);
    return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(((1 << bits) - 1) << to)));
  }
  static I SetFour(const int8_t* four) {  // the same four columns for all rows
    int32_t all;
    __builtin_memcpy(&all, four, sizeof(all));
    return _mm512_set1_epi32(all);
  }
  // sum + the four products of lane r, a's bytes without sign, b's with.
  static I DotBytes(I sum, I a, I b) { return _mm512_dpbusd_epi32(sum, a, b); }
  static I SetInt(int32_t v) { return _mm512_set1_epi32(v); }
  // 128 * high + low of such sums.
  static I DotOfParts(I high, I low) { return AddInt(_mm512_slli_epi32(high, 7), low); }
  // 32 codes in [-16256, 16256] as code = 128 high + low, low in [-64, 63]: 16 bytes for each eight
  // columns: high, then low of columns 0, 4, 1, 5; then the same of columns 2, 6, 3, 7.
  static void StoreSplitCodes(int8_t* bytes, F a, F b) {
    const __m512i code =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a))),
                           _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(b)), 1);
    const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(code, _mm512_set1_epi16(64)), 7);
    const __m512i low = _mm512_sub_epi16(code, _mm512_slli_epi16(high, 7));
    const __m512i both =
        _mm512_or_si512(_mm512_slli_epi16(low, 8), _mm512_and_si512(high, _mm512_set1_epi16(0xff)));
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 2, 10, 1, 9, 3, 11, 4, 12, 6, 14, 5, 13, 7, 15));
    _mm512_storeu_si512(bytes, _mm512_shuffle_epi8(both, order));
  }

  static I Or(I a, I b) { return _mm512_or_si512(a, b); }
  static I SubWords(I a, int16_t b) { return _mm512_sub_epi16(a, _mm512_set1_epi16(b)); }
  static I SetPair(const int16_t* pair) {  // the same two columns for all rows
    int32_t both;
    __builtin_memcpy(&both, pair, sizeof(both));
    return _mm512_set1_epi32(both);
  }
  // sum + a[2r] b[2r] + a[2r + 1] b[2r + 1] in lane r.
  static I Dot(I sum, I a, I b) { return _mm512_dpwssd_epi32(sum, a, b); }
  static I AddInt(I a, I b) { return _mm512_add_epi32(a, b); }
  static F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
};

}  // namespace
}  // namespace echelon::cpu
