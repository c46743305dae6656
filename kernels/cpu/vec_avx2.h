#pragma once
// AVX2, FMA and F16C as the vector types the kernels are written in. Included only by *_avx2.cc.
// 16 floats are two registers; lanes and the order of every sum are those of vec_avx512.h.

#include <immintrin.h>

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
  static constexpr int kSums = 6;       // of attention, 2 registers each: 12 of 16
  static constexpr int kFloatTile = 1;  // tokens * 4 sums * 2 registers, of 16 in all

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
  // Whole numbers in [-128, 127] as bytes.
  static void StoreInt8(int8_t* p, F v) {
    const __m256i lo = _mm256_cvtps_epi32(v.lo), hi = _mm256_cvtps_epi32(v.hi);
    const __m128i a = _mm_packs_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1));
    const __m128i b = _mm_packs_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(a, b));
  }
};

// What the quantised panels are multiplied with: a lane per weight row, half a panel at a time.
struct LanesAvx2 {
  static constexpr int kLanes = 8;
  static constexpr int kTileMax = 4;  // tokens: 16 registers hold 8 codes, 4 sums and the rest

  using F = __m256;
  using I = __m256i;
  static F Zero() { return _mm256_setzero_ps(); }
  static F Set(float v) { return _mm256_set1_ps(v); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F ToFloat(I v) { return _mm256_cvtepi32_ps(v); }
  static F LoadScale(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F LoadScale(const float* p) { return _mm256_loadu_ps(p); }
  static F LoadN(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
  static void StoreN(float* p, F v, int n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }

  // high * 2^bits + low
  template <int bits>
  static I ShiftAdd(I high, I low) {
    return _mm256_add_epi32(_mm256_slli_epi32(high, bits), low);
  }

  // Eight registers of 4 codes for each of 8 rows, from one group of a panel.
  template <int kCodeMax>
  static void Unpack(const uint8_t* codes, I* w) {
    const auto load = [&](int i) {
      return _mm256_loadu_si256(reinterpret_cast<const I*>(codes + 64 * i));
    };
    if constexpr (kCodeMax == 15) {
      const I low = _mm256_set1_epi8(0xf);
      for (int i = 0; i < 4; ++i) {
        const I pair = load(i);
        w[i] = _mm256_and_si256(pair, low);
        w[i + 4] = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
      }
    } else if constexpr (kCodeMax == 255) {
      for (int i = 0; i < 8; ++i) w[i] = _mm256_xor_si256(load(i), _mm256_set1_epi8(-128));
    } else {
      for (int i = 0; i < 8; ++i) w[i] = load(i);
    }
  }
  // start + sum over i < n of w[i] . x[4i, 4i + 4): exact, because no 16-bit sum reaches 32,767.
  //   codes to 15: pairs to 2 * 15 * 127 = 3,810, eight of them 30,480.
  //   codes to 31: pairs to 7,874, four of them 31,496. To 63: 16,002, two of them 32,004.
  //   codes to 255, less 128 (Unpack; start is then in the codes already): |w| to 128 times x with
  //   w's sign, pairs to 2 * 128 * 127 = 32,512.
  template <int kCodeMax, int n>
  static I Dot(const I* w, const int8_t* x, int start) {
    constexpr int kPairsMax = kCodeMax == 15 ? 8 : kCodeMax == 31 ? 4 : kCodeMax == 63 ? 2 : 1;
    const int32_t* quads = reinterpret_cast<const int32_t*>(x);
    const I ones = _mm256_set1_epi16(1);
    I sum = _mm256_set1_epi32(kCodeMax == 255 ? 0 : start);
    for (int begin = 0; begin < n; begin += kPairsMax) {
      I pairs = Pairs<kCodeMax>(w[begin], quads[begin]);
      for (int i = begin + 1; i < n && i < begin + kPairsMax; ++i) {
        pairs = _mm256_add_epi16(pairs, Pairs<kCodeMax>(w[i], quads[i]));
      }
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    return sum;
  }

 private:
  template <int kCodeMax>
  static I Pairs(I w, int32_t quad) {
    const I x = _mm256_set1_epi32(quad);
    if constexpr (kCodeMax == 255) {
      return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    } else {
      return _mm256_maddubs_epi16(w, x);
    }
  }
};

}  // namespace
}  // namespace echelon::cpu
