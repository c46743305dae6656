#pragma once
// AVX-512 with VNNI as the vector types the kernels are written in. Included only by *_avx512.cc.
// Same lanes, same order of every sum as vec_avx2.h: the two give the same bits.

#include <immintrin.h>

#include <cstdint>

namespace echelon::cpu {
namespace {

// 16 floats.
struct Avx512 {
  static constexpr const char* kName = "avx512vnni";
  static constexpr int kSums = 24;      // of attention: 24 of 32 registers
  static constexpr int kFloatTile = 4;  // tokens * 4 sums of a float panel = 16 registers

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
  // Whole numbers in [-128, 127] as bytes.
  static void StoreInt8(int8_t* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
  }
};

// What the quantised panels are multiplied with: a lane per weight row.
struct LanesAvx512 {
  static constexpr int kLanes = 16;
  static constexpr int kTileMax = 8;  // tokens: 8 code + 8 sum registers leave 16 for the rest

  using F = __m512;
  using I = __m512i;
  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float v) { return _mm512_set1_ps(v); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
  static F LoadScale(const uint16_t* p) { return Avx512::LoadHalf(p); }
  static F LoadScale(const float* p) { return _mm512_loadu_ps(p); }
  static F LoadN(const float* p, int n) { return Avx512::LoadN(p, n); }
  static void StoreN(float* p, F v, int n) { Avx512::StoreN(p, v, n); }

  // high * 2^bits + low
  template <int bits>
  static I ShiftAdd(I high, I low) {
    return _mm512_add_epi32(_mm512_slli_epi32(high, bits), low);
  }

  // Eight registers of 4 codes for each of 16 rows, from one group of a panel.
  template <int kCodeMax>
  static void Unpack(const uint8_t* codes, I* w) {
    if constexpr (kCodeMax == 15) {
      const I low = _mm512_set1_epi8(0xf);
      for (int i = 0; i < 4; ++i) {
        const I pair = _mm512_loadu_si512(codes + 64 * i);
        w[i] = _mm512_and_si512(pair, low);
        w[i + 4] = _mm512_and_si512(_mm512_srli_epi16(pair, 4), low);
      }
    } else {
      for (int i = 0; i < 8; ++i) w[i] = _mm512_loadu_si512(codes + 64 * i);
    }
  }
  // start + sum over i < n of w[i] . x[4i, 4i + 4): exact.
  template <int kCodeMax, int n>
  static I Dot(const I* w, const int8_t* x, int start) {
    const int32_t* quads = reinterpret_cast<const int32_t*>(x);
    I sum = _mm512_set1_epi32(start);
    for (int i = 0; i < n; ++i) sum = _mm512_dpbusd_epi32(sum, w[i], _mm512_set1_epi32(quads[i]));
    return sum;
  }
};

}  // namespace
}  // namespace echelon::cpu
