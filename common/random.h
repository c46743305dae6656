#pragma once
// Counter-based random numbers (Philox4x32-10, Salmon et al., SC'11): a draw is a pure function of
// its key, so a replayed token uses the number it used before (replay contract, L1).

#include <array>
#include <cstdint>

namespace echelon {

// The 128 random bits at `counter` of the stream `key`.
std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter);

// Uniform in (0, 1): (bits + 1/2) / 2^32 with 32 random bits, exact in a double, never 0 or 1. Keyed
// by the request's seed, the choice (0 for n = 1), the absolute position of the token that is drawn,
// and a token id (Gumbel-max sampling). Four neighbouring token ids share one Philox block.
double UniformFor(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id);

// The 32 bits behind UniformFor of the ids 4 * quad .. 4 * quad + 3, for loops over a vocabulary.
std::array<uint32_t, 4> UniformBitsFor(uint64_t seed, uint32_t choice, uint32_t position,
                                       uint32_t quad);
inline double UniformFromBits(uint32_t bits) { return (bits + 0.5) * 0x1p-32; }

}  // namespace echelon
