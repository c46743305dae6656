#include "worker/gumbel.h"

#include <algorithm>
#include <array>

#include "kernels/gumbel_math.h"
#include "kernels/threshold_math.h"
#include "worker/logit_scan.h"

namespace echelon {

namespace {
constexpr size_t kBlock = 64;  // tokens that are passed over together by their maximum
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
    if (best.id >= 0 && relative + kGumbelMax < best.score) return;
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
    if (!may_draw || (best.id >= 0 && relative + kGumbelMax < best.score)) continue;
    for (size_t i = begin; i < begin + block.size(); ++i) consider(i);
  }
  return best;
}

}  // namespace echelon
