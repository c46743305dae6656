#pragma once
// Counter-based random numbers (Philox4x32-10, Salmon et al., SC'11): a draw is a pure function of
// its key, so a replayed token uses the number it used before (replay contract, L1). constexpr, so
// that kernels of a device may call them.

#include <array>
#include <cstdint>

namespace echelon {

// The 128 random bits at `counter` of the stream `key`.
constexpr std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;  // golden ratio
    k1 += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return counter;
}

// The 32 bits behind UniformFor of the ids 4 * quad .. 4 * quad + 3, for loops over a vocabulary.
constexpr std::array<uint32_t, 4> UniformBitsFor(uint64_t seed, uint32_t choice, uint32_t position,
                                                 uint32_t quad) {
  return Philox(seed, {quad, position, choice, 0});
}
constexpr double UniformFromBits(uint32_t bits) { return (bits + 0.5) * 0x1p-32; }

// Uniform in (0, 1): (bits + 1/2) / 2^32 with 32 random bits, exact in a double, never 0 or 1.
// Keyed by the request's seed, the choice (0 for n = 1), the absolute position of the token that is
// drawn, and a token id (Gumbel-max sampling). Four neighbouring token ids share one Philox block.
constexpr double UniformFor(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id) {
  return UniformFromBits(UniformBitsFor(seed, choice, position, token_id / 4)[token_id % 4]);
}

}  // namespace echelon
