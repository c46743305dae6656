#include "common/random.h"

namespace echelon {

std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter) {
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

std::array<uint32_t, 4> UniformBitsFor(uint64_t seed, uint32_t choice, uint32_t position,
                                       uint32_t quad) {
  return Philox(seed, {quad, position, choice, 0});
}

double UniformFor(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id) {
  return UniformFromBits(UniformBitsFor(seed, choice, position, token_id / 4)[token_id % 4]);
}

}  // namespace echelon
