// The reference's attention: a straight softmax over all positions the row may see. Parts of it
// (sequence parallelism) are rounded to float32 after every split, so that a list of pages gives
// the same bits whether it comes in one call or in several.

#include <algorithm>
#include <vector>

#include "kernels/real_math.h"
#include "kernels/reference/dot.h"
#include "kernels/reference/kv_cache.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/shape_check.h"

namespace echelon::reference {

namespace {
// A softmax over some positions, not yet divided by its total.
struct Partial {
  std::vector<double> sums;  // (D) of exp(score - best) * value
  double best = -HUGE_VAL;
  double total = 0.0;  // of exp(score - best)
};

Partial AttendOne(const AttentionArgs& args, int64_t t, int head, int32_t first, int32_t end) {
  const auto& cache = static_cast<const RefKvCache&>(*args.cache);
  const int dim = args.head_dim;
  const int kv_head = (args.head_begin + head) / args.group - args.kv_begin;
  const int32_t s = args.rows.sequences[t];
  const float* query = args.q.row(t) + static_cast<int64_t>(head) * dim;

  std::vector<float> scratch(dim);
  std::vector<double> weights;
  Partial partial;
  for (int32_t p = first; p < end; ++p) {
    const int64_t slot = cache.SlotOf(args.rows, s, p);
    CHECK(slot >= 0);
    const float* key = cache.Read(args.layer, slot, kv_head, RefKvCache::kKey, scratch.data());
    weights.push_back(args.scale * Dot(query, key, dim));
    partial.best = std::max(partial.best, weights.back());
  }
  partial.sums.assign(dim, 0.0);
  for (int32_t p = first; p < end; ++p) {
    const int64_t slot = cache.SlotOf(args.rows, s, p);
    const float* value = cache.Read(args.layer, slot, kv_head, RefKvCache::kValue, scratch.data());
    const double weight = RealExp(weights[p - first] - partial.best);
    partial.total += weight;
    for (int i = 0; i < dim; ++i) partial.sums[i] += weight * value[i];
  }
  return partial;
}

Partial LoadPartial(const float* from, int dim) {
  return {{from, from + dim}, from[dim], from[dim + 1]};
}

void StorePartial(const Partial& partial, float* to) {
  const auto dim = static_cast<int64_t>(partial.sums.size());
  for (int64_t i = 0; i < dim; ++i) to[i] = static_cast<float>(partial.sums[i]);
  to[dim] = static_cast<float>(partial.best);
  to[dim + 1] = static_cast<float>(partial.total);
}

void MergeInto(Partial& state, const Partial& later) {
  const double best = std::max(state.best, later.best);
  const double keep = RealExp(state.best - best), take = RealExp(later.best - best);
  for (size_t i = 0; i < state.sums.size(); ++i) {
    state.sums[i] = state.sums[i] * keep + later.sums[i] * take;
  }
  state.total = state.total * keep + later.total * take;
  state.best = best;
}

void AttendWhole(const AttentionArgs& args, int64_t t, int head) {
  const int32_t position = args.rows.positions[t];
  const int32_t first = args.window > 0 ? std::max(0, position - args.window + 1) : 0;
  const Partial partial = AttendOne(args, t, head, first, position + 1);
  float* out = args.out.row(t) + static_cast<int64_t>(head) * args.head_dim;
  for (int i = 0; i < args.head_dim; ++i) {
    out[i] = static_cast<float>(partial.sums[i] / partial.total);
  }
}

void AttendPart(const AttentionArgs& args, int64_t t, int head) {
  const int dim = args.head_dim;
  float* state = args.partials.row(t) + static_cast<int64_t>(head) * (dim + 2);
  bool continued = args.begin[t] < 0;
  for (int32_t at = std::max(0, args.begin[t]); at < args.end[t];) {
    const int32_t end = std::min(args.end[t], (at / kAttentionSplit + 1) * kAttentionSplit);
    Partial partial = AttendOne(args, t, head, at, end);
    if (continued) {
      Partial before = LoadPartial(state, dim);
      MergeInto(before, partial);
      partial = before;
    }
    StorePartial(partial, state);
    continued = true;
    at = end;
  }
}
}  // namespace

void ReferenceBackend::Attention(const AttentionArgs& args) {
  CheckAttention(args);
  const int64_t units = args.q.rows * args.heads;
  pool_.ParallelFor(units, 1, [&](int64_t unit, int64_t, int) {
    const int64_t t = unit / args.heads;
    const int head = static_cast<int>(unit % args.heads);
    args.begin.empty() ? AttendWhole(args, t, head) : AttendPart(args, t, head);
  });
}

void ReferenceBackend::MergeAttention(const MergeArgs& args) {
  CheckMerge(args);
  const int dim = args.head_dim;
  pool_.ParallelFor(args.out.rows * args.heads, 1, [&](int64_t unit, int64_t, int) {
    const int64_t t = unit / args.heads, head = unit % args.heads;
    const auto part = [&](int32_t i) {
      return LoadPartial(args.partials.row(args.parts[i]) + head * (dim + 2), dim);
    };
    Partial state = part(args.begin[t]);
    for (int32_t i = args.begin[t] + 1; i < args.begin[t + 1]; ++i) MergeInto(state, part(i));
    float* out = args.out.row(t) + head * dim;
    for (int i = 0; i < dim; ++i) out[i] = static_cast<float>(state.sums[i] / state.total);
  });
}

}  // namespace echelon::reference
