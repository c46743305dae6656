// The specification itself, against formulas written out once more in the plainest way.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "common/half.h"
#include "kernels/backend.h"
#include "kernels/real_math.h"
#include "kernels/reference/dot.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;

// One rounding to float at the end, half a unit in the last place; the order of the double sum is
// worth 1e-16 of the terms' size and does not show.
constexpr double kRounding = 0x1p-23;

TEST(RealMath, AgreesWithTheLibrary) {
  for (double x = -700.0; x < 700.0; x += 0.37) {
    ASSERT_NEAR(RealExp(x) / std::exp(x), 1.0, 5e-16) << x;
  }
  EXPECT_EQ(RealExp(-HUGE_VAL), 0.0);
  EXPECT_EQ(RealExp(800.0), HUGE_VAL);
  EXPECT_TRUE(std::isnan(RealExp(NAN)));
  for (double x = -131072.0; x < 131072.0; x += 3.1) {
    const SinCos got = RealSinCos(x);
    ASSERT_NEAR(got.sin, std::sin(x), 4e-16) << x;
    ASSERT_NEAR(got.cos, std::cos(x), 4e-16) << x;
  }
}

TEST(Reference, DotIsTheSameOnEveryInstructionSet) {
  const int64_t cols = 264, tokens = 11;
  std::vector<double> w(cols), x(cols * tokens);
  const auto wf = RandomFloats(cols, 1), xf = RandomFloats(cols * tokens, 2);
  std::copy(wf.begin(), wf.end(), w.begin());
  std::copy(xf.begin(), xf.end(), x.begin());
  std::vector<double> base(tokens), best(tokens);
  reference::DotRowsBase(w.data(), x.data(), cols, tokens, cols, base.data());
  reference::BestDotRows()(w.data(), x.data(), cols, tokens, cols, best.data());
  EXPECT_EQ(std::memcmp(base.data(), best.data(), tokens * sizeof(double)), 0);
  for (int64_t t = 0; t < tokens; ++t) {
    EXPECT_EQ(base[t], reference::Dot(wf.data(), xf.data() + t * cols, cols));
  }
}

TEST(Reference, MatMulOfEveryFormatCutsAndStacks) {
  auto backend = test::MustMake("reference", 2);
  for (const TensorFormatInfo& info : TensorFormats()) {
    SCOPED_TRACE(std::string(info.name));
    const int64_t cols = 512, begin = 40, end = 471, tokens = 5;  // inside blocks
    const auto first = test::RandomMatrix(info.format, 19, cols, 3);
    const auto second = test::RandomMatrix(TensorFormat::kF32, 2, cols, 4);
    auto weight = test::MustPack(*backend, {first.Cut(begin, end), second.Cut(begin, end)});
    ASSERT_EQ(weight->rows(), 21);
    ASSERT_EQ(weight->cols(), end - begin);
    const auto x = RandomFloats(tokens * (end - begin), 5);
    const auto bias = RandomFloats(21, 6);
    FloatBuffer input(*backend, tokens, end - begin, x), out(*backend, tokens, 21);
    backend->MatMul(input.tensor(), *weight, bias.data(), out.tensor());
    const auto got = out.Read();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < 21; ++n) {
        const auto row = n < 19 ? first.Row(n) : second.Row(n - 19);
        long double sum = bias[n];
        double size = std::fabs(bias[n]);
        for (int64_t k = begin; k < end; ++k) {
          const double term = static_cast<double>(row[k]) * x[t * (end - begin) + k - begin];
          sum += term;
          size += std::fabs(term);
        }
        const double want = static_cast<double>(sum);
        ASSERT_NEAR(got[t * 21 + n], want, std::fabs(want) * kRounding + size * 1e-14);
      }
    }
  }
}

TEST(Reference, EmbedTakesRowsOfItsRangeOnly) {
  auto backend = test::MustMake("reference", 1);
  const auto table = test::RandomMatrix(TensorFormat::kQ8_0, 10, 64, 1);
  auto weight = test::MustPack(*backend, {table.view});
  FloatBuffer out(*backend, 4, 64);
  const int32_t ids[] = {99, 100, 109, 110};
  backend->Embed(ids, *weight, 100, 2.0f, out.tensor());
  const auto got = out.Read();
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(got[i], 0.0f);
    EXPECT_EQ(got[64 + i], 2.0f * table.Row(0)[i]);
    EXPECT_EQ(got[128 + i], 2.0f * table.Row(9)[i]);
    EXPECT_EQ(got[192 + i], 0.0f);
  }
}

TEST(Reference, NormResidualAndActivations) {
  auto backend = test::MustMake("reference", 1);
  const auto x = RandomFloats(3 * 70, 1, 3.0f), delta = RandomFloats(3 * 70, 2);
  const auto weight = RandomFloats(70, 3);
  FloatBuffer in(*backend, 3, 70, x), change(*backend, 3, 70, delta), normed(*backend, 3, 70);
  backend->RmsNorm(in.tensor(), weight.data(), 1e-5f, normed.tensor());
  const auto got = normed.Read();
  backend->AddResidual(in.tensor(), change.tensor(), 0.5f, weight.data(), 1e-5f);
  const auto residual = in.Read();
  for (int t = 0; t < 3; ++t) {
    double squares = 0.0, delta_squares = 0.0;
    for (int i = 0; i < 70; ++i) squares += std::pow(x[t * 70 + i], 2.0);
    for (int i = 0; i < 70; ++i) delta_squares += std::pow(delta[t * 70 + i], 2.0);
    for (int i = 0; i < 70; ++i) {
      const double want = x[t * 70 + i] / std::sqrt(squares / 70 + 1e-5) * weight[i];
      ASSERT_NEAR(got[t * 70 + i], want, std::fabs(want) * 2 * kRounding);
      const double add = delta[t * 70 + i] / std::sqrt(delta_squares / 70 + 1e-5) * weight[i];
      ASSERT_NEAR(residual[t * 70 + i], 0.5 * x[t * 70 + i] + add, 4 * kRounding);
    }
  }
  FloatBuffer gate_up(*backend, 3, 70, x), gated(*backend, 3, 35);
  backend->GatedActivation(gate_up.tensor(), GatedKind::kGeluTanh, gated.tensor());
  const double g = x[0], up = x[35];
  const double gelu =
      0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * up;
  EXPECT_NEAR(gated.Read()[0], gelu, std::fabs(gelu) * kRounding + 1e-15);
  backend->GatedActivation(gate_up.tensor(), GatedKind::kSilu, gated.tensor());
  EXPECT_NEAR(gated.Read()[0], g / (1 + std::exp(-g)) * up, std::fabs(gelu) * 1e-5 + 1e-7);
}

// Three sequences of which one is fed in two chunks; window and head shard; both pair layouts.
TEST(Reference, RopeAppendAndAttention) {
  auto backend = test::MustMake("reference", 2);
  const int dim = 8, heads = 3, kv_heads = 2, page = 4, tokens = 6;
  std::vector<double> frequency = {1.0, 0.3, 0.05, 0.001};
  for (const bool interleaved : {false, true}) {
    auto cache = backend->AllocateKv({.layers = 2,
                                      .pages = 6,
                                      .page_tokens = page,
                                      .kv_heads = kv_heads,
                                      .head_dim = dim,
                                      .type = KvType::kF32});
    ASSERT_TRUE(cache.ok());
    const int cols = (heads + 2 * kv_heads) * dim;
    const auto qkv = RandomFloats(tokens * cols, 9);
    std::vector<std::pair<int, int>> rows;
    for (int p = 0; p < tokens; ++p) rows.push_back({1, p});
    const test::TestBatch batch(rows, 3, 8, page, 1);
    FloatBuffer buffer(*backend, tokens, cols, qkv);
    backend->RopeAppend({.qkv = buffer.tensor(),
                         .heads = heads,
                         .kv_heads = kv_heads,
                         .head_dim = dim,
                         .rope = {frequency, interleaved},
                         .rows = batch.view(),
                         .cache = cache->get(),
                         .layer = 1});
    FloatBuffer out(*backend, tokens, heads * dim);
    // Heads 3, 4, 5 of a model with groups of 2: local KV heads 0, 1, 1.
    backend->Attention({.q = buffer.tensor().Cols(0, heads * dim),
                        .out = out.tensor(),
                        .heads = heads,
                        .head_dim = dim,
                        .head_begin = 3,
                        .group = 2,
                        .kv_begin = 1,
                        .scale = 0.4f,
                        .window = 3,
                        .rows = batch.view(),
                        .cache = cache->get(),
                        .layer = 1});
    const auto rotated = [&](int t, int head, int i) -> double {  // element i of a q or k head
      const float* h = qkv.data() + t * cols + head * dim;
      const int pair = interleaved ? i / 2 : i % 4;
      const bool second = interleaved ? i % 2 == 1 : i >= 4;
      const double a = h[interleaved ? 2 * pair : pair],
                   b = h[interleaved ? 2 * pair + 1 : pair + 4];
      const double angle = t * frequency[pair];
      return second ? b * std::cos(angle) + a * std::sin(angle)
                    : a * std::cos(angle) - b * std::sin(angle);
    };
    const int kv_of[] = {0, 1, 1};
    const auto got = out.Read();
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < heads; ++h) {
        double total = 0.0, sums[dim] = {};
        for (int p = std::max(0, t - 2); p <= t; ++p) {
          double score = 0.0;
          for (int i = 0; i < dim; ++i) score += rotated(t, h, i) * rotated(p, heads + kv_of[h], i);
          const double weight = std::exp(0.4 * score);
          total += weight;
          for (int i = 0; i < dim; ++i) {
            sums[i] += weight * qkv[p * cols + (heads + kv_heads + kv_of[h]) * dim + i];
          }
        }
        for (int i = 0; i < dim; ++i) {  // q and k are rounded to float once each
          ASSERT_NEAR(got[(t * heads + h) * dim + i], sums[i] / total, 1e-6);
        }
      }
    }
  }
}

// One position is seen, so the output is its value: 34 elements, a block of 32 and one of 2.
TEST(Reference, CodedCacheRoundsBlocksOf32) {
  auto backend = test::MustMake("reference", 1);
  const int dim = 34;
  auto cache = backend->AllocateKv({.layers = 1,
                                    .pages = 1,
                                    .page_tokens = 4,
                                    .kv_heads = 1,
                                    .head_dim = dim,
                                    .type = KvType::kQ8_0});
  ASSERT_TRUE(cache.ok());
  const test::TestBatch batch({{0, 0}}, 1, 4, 4, 1);
  auto qkv = RandomFloats(3 * dim, 6);
  qkv[2 * dim + 5] = -2.0f;   // the largest of the first block
  qkv[2 * dim + 33] = 0.01f;  // of the second
  qkv[2 * dim + 32] = 0.004f;
  const std::vector<double> frequency(dim / 2, 1.0);
  FloatBuffer buffer(*backend, 1, 3 * dim, qkv), out(*backend, 1, dim);
  backend->RopeAppend({.qkv = buffer.tensor(),
                       .heads = 1,
                       .kv_heads = 1,
                       .head_dim = dim,
                       .rope = {frequency, false},
                       .rows = batch.view(),
                       .cache = cache->get()});
  backend->Attention({.q = buffer.tensor().Cols(0, dim),
                      .out = out.tensor(),
                      .heads = 1,
                      .head_dim = dim,
                      .scale = 1.0f,
                      .rows = batch.view(),
                      .cache = cache->get()});
  const auto got = out.Read();
  for (int i = 0; i < dim; ++i) {
    const float scale = HalfToFloat(FloatToHalf((i < 32 ? 2.0f : 0.01f) / 127));
    EXPECT_EQ(got[i], scale * std::nearbyint(qkv[2 * dim + i] / scale)) << i;
  }
}

TEST(Reference, Float16CacheRoundsKeysAndValues) {
  auto backend = test::MustMake("reference", 1);
  auto cache = backend->AllocateKv({.layers = 1,
                                    .pages = 1,
                                    .page_tokens = 4,
                                    .kv_heads = 1,
                                    .head_dim = 2,
                                    .type = KvType::kF16});
  ASSERT_TRUE(cache.ok());
  const test::TestBatch batch({{0, 0}}, 1, 4, 4, 1);
  const std::vector<float> qkv = {0, 0, 0, 0, 0.1f, 0.7f};
  const std::vector<double> frequency = {1.0};
  FloatBuffer buffer(*backend, 1, 6, qkv), out(*backend, 1, 2);
  backend->RopeAppend({.qkv = buffer.tensor(),
                       .heads = 1,
                       .kv_heads = 1,
                       .head_dim = 2,
                       .rope = {frequency, false},
                       .rows = batch.view(),
                       .cache = cache->get()});
  backend->Attention({.q = buffer.tensor().Cols(0, 2),
                      .out = out.tensor(),
                      .heads = 1,
                      .head_dim = 2,
                      .scale = 1.0f,
                      .rows = batch.view(),
                      .cache = cache->get()});
  EXPECT_EQ(out.Read()[0], HalfToFloat(FloatToHalf(0.1f)));
  EXPECT_EQ(out.Read()[1], HalfToFloat(FloatToHalf(0.7f)));
}

TEST(Backend, RefusesWhatItCannotDo) {
  EXPECT_EQ(MakeBackend({.name = "abacus"}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(MakeBackend({.name = "cuda"}).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(MakeBackend({.name = "reference", .threads = 0}).error().field, "threads");
  auto backend = test::MustMake("reference", 1);
  auto buffer = backend->Allocate(size_t{1} << 60);
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.error().code, ErrorCode::kResourceExhausted);
  EXPECT_GT(backend->FreeMemoryBytes(), uint64_t{1} << 20);
}

}  // namespace
}  // namespace echelon
