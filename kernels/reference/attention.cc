// The reference's attention: a straight softmax over all positions the row may see.

#include <algorithm>
#include <vector>

#include "kernels/real_math.h"
#include "kernels/reference/dot.h"
#include "kernels/reference/kv_cache.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/shape_check.h"

namespace echelon::reference {

namespace {
void AttendOne(const AttentionArgs& args, int64_t t, int head) {
  const auto& cache = static_cast<const RefKvCache&>(*args.cache);
  const int dim = args.head_dim;
  const int kv_head = (args.head_begin + head) / args.group - args.kv_begin;
  const int32_t s = args.rows.sequences[t];
  const int32_t position = args.rows.positions[t];
  const int32_t first = args.window > 0 ? std::max(0, position - args.window + 1) : 0;
  const float* query = args.q.row(t) + static_cast<int64_t>(head) * dim;

  std::vector<float> scratch(dim);
  std::vector<double> weights;
  double best = -HUGE_VAL;
  for (int32_t p = first; p <= position; ++p) {
    const float* key = cache.Read(args.layer, cache.SlotOf(args.rows, s, p), kv_head,
                                  RefKvCache::kKey, scratch.data());
    weights.push_back(args.scale * Dot(query, key, dim));
    best = std::max(best, weights.back());
  }
  double total = 0.0;
  std::vector<double> sums(dim, 0.0);
  for (int32_t p = first; p <= position; ++p) {
    const float* value = cache.Read(args.layer, cache.SlotOf(args.rows, s, p), kv_head,
                                    RefKvCache::kValue, scratch.data());
    const double weight = RealExp(weights[p - first] - best);
    total += weight;
    for (int i = 0; i < dim; ++i) sums[i] += weight * value[i];
  }
  float* out = args.out.row(t) + static_cast<int64_t>(head) * dim;
  for (int i = 0; i < dim; ++i) out[i] = static_cast<float>(sums[i] / total);
}
}  // namespace

void ReferenceBackend::Attention(const AttentionArgs& args) {
  CheckAttention(args);
  const int64_t units = args.q.rows * args.heads;
  pool_.ParallelFor(units, 1, [&](int64_t unit, int64_t, int) {
    AttendOne(args, unit / args.heads, static_cast<int>(unit % args.heads));
  });
}

}  // namespace echelon::reference
