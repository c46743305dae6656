#include "worker/gumbel.h"

#include <algorithm>
#include <array>

#include "common/random.h"
#include "worker/exact_math.h"
#include "worker/logit_scan.h"

namespace echelon {

namespace {

constexpr double kNoiseMax = 23.0;  // the greatest, at u = 1 - 2^-33, is 33 ln 2 = 22.9
constexpr size_t kBlock = 64;       // tokens that are passed over together by their maximum

double GumbelOf(uint32_t bits) { return -ExactLog(-ExactLog(UniformFromBits(bits))); }

// False only where relative logit + noise cannot reach `best`. -log(-log u) <= -log(1 - u), so to
// gain g the noise needs 1 - u <= e^-g < 2^-floor(g * log2 e): few random bits decide, and the two
// logarithms are taken for a handful of tokens only.
bool MayReach(double best, double relative, uint32_t bits) {
  const double gain = (best - relative) * 1.4426;  // a little less than log2 e
  if (!(gain >= 1.0)) return true;
  const uint64_t missing = (uint64_t{1} << 32) - bits;  // (1 - u) * 2^32, and 1/2
  return gain <= 33.0 && missing <= ((uint64_t{1} << 32) >> static_cast<int>(gain)) + 1;
}

}  // namespace

bool Beats(const GumbelDraw& a, const GumbelDraw& b) {
  if (a.id < 0 || b.id < 0) return a.id >= 0 && b.id < 0;
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

GumbelDraw DrawFrom(const GumbelRow& row) {
  GumbelDraw best;
  uint32_t quad = ~0u;
  std::array<uint32_t, 4> bits{};
  const auto consider = [&](size_t i) {
    const float logit = row.logits[i];
    if (OrderKey(logit) < row.key_min) return;
    const double relative = (static_cast<double>(logit) - row.max) * row.inverse_temperature;
    if (!(relative >= row.log_min)) return;
    if (best.id >= 0 && relative + kNoiseMax < best.score) return;
    const auto id = static_cast<uint32_t>(row.first_id + static_cast<int64_t>(i));
    if (id / 4 != quad) {
      quad = id / 4;
      bits = UniformBitsFor(row.seed, 0, row.position, quad);
    }
    if (best.id >= 0 && !MayReach(best.score, relative, bits[id % 4])) return;
    const GumbelDraw draw{relative + GumbelOf(bits[id % 4]), static_cast<int32_t>(id)};
    if (Beats(draw, best)) best = draw;
  };
  // The most likely token first: it sets a score that most others cannot reach.
  const int64_t likeliest = FirstEqual(row.logits, MaxLogit(row.logits));
  if (likeliest >= 0) consider(static_cast<size_t>(likeliest));
  for (size_t begin = 0; begin < row.logits.size(); begin += kBlock) {
    const auto block = row.logits.subspan(begin, std::min(kBlock, row.logits.size() - begin));
    const float max = MaxLogit(block);
    const double relative = (static_cast<double>(max) - row.max) * row.inverse_temperature;
    const bool may_draw = OrderKey(max) >= row.key_min && relative >= row.log_min;
    if (!may_draw || (best.id >= 0 && relative + kNoiseMax < best.score)) continue;
    for (size_t i = begin; i < begin + block.size(); ++i) consider(i);
  }
  return best;
}

}  // namespace echelon
