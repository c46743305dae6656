#include "tests/unit/kernels/cpu_op_twins.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "common/half.h"
#include "kernels/quant/quant.h"

namespace echelon::test {

namespace {
constexpr int kLanes = 16;
constexpr float kCodes = 16256.0f;  // the largest code of 15 bits in use

float InverseRoot(const float* x, size_t n, float eps) {
  float squares[kLanes] = {};
  for (size_t i = 0; i < n; ++i) squares[i % kLanes] = std::fma(x[i], x[i], squares[i % kLanes]);
  return 1.0f / std::sqrt(SumLanesTwin(squares) / static_cast<float>(n) + eps);
}

// A key or value as the cache keeps it: floats, or codes with a scale for each block of 32.
struct Stored {
  std::vector<float> floats;
  std::vector<int> codes;
  std::vector<float> scales;
};
Stored Store(KvType type, std::span<const float> vector) {
  Stored stored;
  if (type != KvType::kQ8_0) {
    stored.floats.assign(vector.begin(), vector.end());
    if (type == KvType::kF32) return stored;
    for (float& value : stored.floats) value = HalfToFloat(FloatToHalf(value));
    return stored;
  }
  for (size_t at = 0; at < vector.size(); at += 32) {
    float block[32] = {};
    std::copy_n(vector.begin() + at, std::min<size_t>(32, vector.size() - at), block);
    std::byte bytes[34];
    QuantizeRow(TensorFormat::kQ8_0, block, 32, bytes);
    stored.scales.push_back(HalfToFloat(LoadU16(bytes)));
    for (size_t i = 0; i < 32 && at + i < vector.size(); ++i) {
      stored.codes.push_back(static_cast<int8_t>(bytes[2 + i]));
    }
  }
  return stored;
}

// Elements of even and of odd index in a sum each.
float ScoreFloats(std::span<const float> query, const Stored& key, float scale) {
  float sums[2] = {};
  for (size_t d = 0; d < query.size(); ++d) {
    sums[d % 2] = std::fma(key.floats[d], query[d], sums[d % 2]);
  }
  return (sums[0] + sums[1]) * scale;
}

// Each block's whole-number dot times both scales, in order.
float ScoreCodes(std::span<const float> query, const Stored& key, float scale) {
  float sum = 0.0f;
  for (size_t at = 0; at < query.size(); at += 32) {
    const size_t count = std::min<size_t>(32, query.size() - at);
    const CodedGroup group = QuantiseTwin(query.subspan(at, count));
    int dot = 0;
    for (size_t i = 0; i < count; ++i) dot += key.codes[at + i] * group.codes[i];
    sum = std::fma(static_cast<float>(dot), key.scales[at / 32] * group.scale, sum);
  }
  return sum * scale;
}

// Weights of the positions from `begin` on become codes once their values' scale is in them: one
// whole-number sum over the split, for each block of 32 elements.
void SumCodes(const std::vector<float>& weights, const std::vector<Stored>& values,
              std::vector<float>& sums) {
  for (size_t block = 0; 32 * block < sums.size(); ++block) {
    float most = 0.0f;
    std::vector<float> products;
    for (size_t i = 0; i < weights.size(); ++i) {
      products.push_back(weights[i] * values[i].scales[block]);
      most = std::max(most, products.back());
    }
    const bool nothing = most < 1e-30f;
    const float inverse = nothing ? 0.0f : kCodes / most;
    for (size_t d = 32 * block; d < std::min(sums.size(), 32 * (block + 1)); ++d) {
      int sum = 0;
      for (size_t i = 0; i < weights.size(); ++i) {
        sum += static_cast<int>(std::nearbyint(products[i] * inverse)) * values[i].codes[d];
      }
      sums[d] = static_cast<float>(sum) * (nothing ? 0.0f : most / kCodes);
    }
  }
}
}  // namespace

float ExpTwin(float x) {
  if (std::isnan(x)) return x;
  const float clamped = std::min(88.3f, std::max(-87.3f, x));
  const float n = std::nearbyint(clamped * 1.44269504088896341f);
  float r = std::fma(n, -0.693359375f, clamped);
  r = std::fma(n, 2.12194440054690583e-4f, r);
  float sum = 1.0f / 5040.0f;
  for (const float term :
       {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) {
    sum = std::fma(sum, r, term);
  }
  return x < -87.3f ? 0.0f : sum * std::ldexp(1.0f, static_cast<int>(n));
}

float SiluTwin(float x) { return x / (1.0f + ExpTwin(0.0f - x)); }

float GeluTanhTwin(float x) {
  const float inner = std::fma(0.044715f, x * x * x, x);
  return x / (1.0f + ExpTwin(-2.0f * 0.797884560802865f * inner));
}

float SumLanesTwin(const float* lanes) {
  float sums[kLanes];
  std::copy_n(lanes, kLanes, sums);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

std::vector<float> RmsNormTwin(std::span<const float> x, const float* weight, float eps) {
  const float factor = InverseRoot(x.data(), x.size(), eps);
  std::vector<float> out;
  for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * factor * weight[i]);
  return out;
}

std::vector<float> AddResidualTwin(std::span<const float> residual, const float* delta, float keep,
                                   const float* post_norm, float eps) {
  const float factor = post_norm != nullptr ? InverseRoot(delta, residual.size(), eps) : 1.0f;
  std::vector<float> out;
  for (size_t i = 0; i < residual.size(); ++i) {
    const float change = post_norm != nullptr ? delta[i] * factor * post_norm[i] : delta[i];
    out.push_back(std::fma(residual[i], keep, change));
  }
  return out;
}

std::vector<float> RotateTwin(std::span<const float> head, const float* cos, const float* sin,
                              bool interleaved) {
  const size_t half = head.size() / 2;
  std::vector<float> out(head.size());
  for (size_t i = 0; i < half; ++i) {
    const size_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    const float a = head[first], b = head[second];
    out[first] = std::fma(a, cos[i], -(b * sin[i]));
    out[second] = std::fma(b, cos[i], a * sin[i]);
  }
  return out;
}

CodedGroup QuantiseTwin(std::span<const float> values) {
  CodedGroup group;
  float most = 0.0f;
  for (const float value : values) most = std::max(most, std::fabs(value));
  if (most < 1e-30f) return group;
  const float inverse = kCodes / most;
  int sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    group.codes[i] = static_cast<int>(std::nearbyint(values[i] * inverse));
    sum += group.codes[i];
  }
  group.scale = most / kCodes;
  group.sum = group.scale * static_cast<float>(sum);
  return group;
}

SplitState AttendTwin(KvType type, std::span<const float> query, const std::vector<float>& keys,
                      const std::vector<float>& values, int begin, int end, float scale) {
  const size_t dim = query.size();
  std::vector<float> scores, weights;
  std::vector<Stored> stored;
  SplitState state;
  state.best = -INFINITY;
  for (int p = begin; p < end; ++p) {
    const Stored key = Store(type, std::span(keys).subspan(p * dim, dim));
    stored.push_back(Store(type, std::span(values).subspan(p * dim, dim)));
    scores.push_back(type == KvType::kQ8_0 ? ScoreCodes(query, key, scale)
                                           : ScoreFloats(query, key, scale));
    state.best = std::max(state.best, scores.back());
  }
  float totals[kLanes] = {};
  for (int p = begin; p < end; ++p) {
    weights.push_back(ExpTwin(scores[p - begin] - state.best));
    totals[p % kLanes] += weights.back();
  }
  state.total = SumLanesTwin(totals);
  state.sums.assign(dim, 0.0f);
  if (type == KvType::kQ8_0) {
    SumCodes(weights, stored, state.sums);
    return state;
  }
  for (size_t d = 0; d < dim; ++d) {
    for (size_t i = 0; i < weights.size(); ++i) {
      state.sums[d] = std::fma(stored[i].floats[d], weights[i], state.sums[d]);
    }
  }
  return state;
}

SplitState MergeTwin(const SplitState& state, const SplitState& later) {
  SplitState merged = state;
  merged.best = std::max(state.best, later.best);
  const float keep = ExpTwin(state.best - merged.best), take = ExpTwin(later.best - merged.best);
  for (size_t i = 0; i < state.sums.size(); ++i) {
    merged.sums[i] = std::fma(later.sums[i], take, state.sums[i] * keep);
  }
  merged.total = std::fma(later.total, take, state.total * keep);
  return merged;
}

}  // namespace echelon::test
