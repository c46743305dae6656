#pragma once
// AVX2 with AVX-VNNI: the types of vec_avx2.h, products and sums of codes in one instruction each.
// Included only by *_avxvnni.cc.

#include "kernels/cpu/vec_avx2.h"

namespace echelon::cpu {
namespace {

struct AvxVnni : Avx2 {
  static constexpr const char* kName = "avxvnni";
  static constexpr const char* kTitle = "AVX-VNNI";
  // 12 registers of dots, 2 of weights and one of activations, of 16; 10 chains would do (5 cycles
  // of latency, two a cycle).
  static constexpr int kTokensMax = 6;

  static I Dot(I sum, I a, I b) {
    return {_mm256_dpwssd_avx_epi32(sum.lo, a.lo, b.lo),
            _mm256_dpwssd_avx_epi32(sum.hi, a.hi, b.hi)};
  }
  static constexpr int PiecesOfBytes(int) { return 8; }  // a lane has 32 bits
  // sum + the four products of lane r, a's bytes without sign, b's with.
  static I DotBytes(I sum, I a, I b) {
    return {_mm256_dpbusd_avx_epi32(sum.lo, a.lo, b.lo),
            _mm256_dpbusd_avx_epi32(sum.hi, a.hi, b.hi)};
  }
  static I DotOfParts(I high, I low) {
    return AddInt({_mm256_slli_epi32(high.lo, 7), _mm256_slli_epi32(high.hi, 7)}, low);
  }
};

}  // namespace
}  // namespace echelon::cpu
