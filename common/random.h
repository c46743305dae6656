#pragma once
// Counter-based random numbers (Philox4x32-10, Salmon et al., SC'11): a draw is a pure function of
// its key, so a replayed token uses the number it used before (replay contract, L1).

#include <array>
#include <cstdint>

namespace echelon {

// The 128 random bits at `counter` of the stream `key`.
std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter);

// Uniform in (0, 1), 24 bits, never 0 or 1. Keyed by the request's seed, the choice (0 for n = 1),
// the absolute position of the token that is drawn, and a token id (Gumbel-max sampling).
float UniformFor(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id);

}  // namespace echelon
