// Row ops of every backend against the reference, and row and thread invariance of each.

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <functional>
#include <string>

#include "tests/unit/kernels/backend_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;

class BackendOps : public test::BackendTest {
 protected:
  // An op from (T, in_cols) to (T, out_cols), run on rows [begin, end) of `x`.
  using Op = std::function<void(Backend&, Tensor in, Tensor out, int64_t begin)>;
  std::vector<float> RunOn(Backend& backend, const Op& op, const std::vector<float>& x,
                           int64_t begin, int64_t end, int64_t in_cols, int64_t out_cols) {
    const std::vector<float> part(x.begin() + begin * in_cols, x.begin() + end * in_cols);
    FloatBuffer in(backend, end - begin, in_cols, part, in_cols + 3, 1);
    FloatBuffer out(backend, end - begin, out_cols, out_cols + 1, 3);
    op(backend, in.tensor(), out.tensor(), begin);
    backend.Synchronize();
    EXPECT_TRUE(in.GuardsIntact());
    EXPECT_TRUE(out.GuardsIntact());
    return out.Read();
  }

  // The op against the reference, within `ulps` units of 2^-24 of the value (plus `absolute`), and
  // each chunk of rows against all rows at once.
  void Check(const Op& op, const std::vector<float>& x, int64_t tokens, int64_t in_cols,
             int64_t out_cols, double ulps, double absolute = 0.0) {
    const auto got = RunOn(*backend_, op, x, 0, tokens, in_cols, out_cols);
    const auto want = RunOn(*reference_, op, x, 0, tokens, in_cols, out_cols);
    for (size_t i = 0; i < got.size(); ++i) {
      const double tolerance = exact() ? 0.0 : std::fabs(want[i]) * ulps * 0x1p-24 + absolute;
      ASSERT_NEAR(got[i], want[i], tolerance) << i;
    }
    for (const int64_t chunk : {1, 7}) {
      for (int64_t t = 0; t < tokens; t += chunk) {
        const int64_t end = std::min(tokens, t + chunk);
        const auto rows = RunOn(*backend_, op, x, t, end, in_cols, out_cols);
        ASSERT_TRUE(test::SameBits(rows, {got.data() + t * out_cols, rows.size()}));
      }
    }
  }
};

constexpr int64_t kWidths[] = {1, 2, 15, 16, 17, 70, 576, 1000};
constexpr int64_t kTokens = 40;  // enough for several threads at the larger widths

// Sum of squares in 16 lanes: n / 16 + 4 additions, halved by the root; then four more roundings.
TEST_P(BackendOps, RmsNorm) {
  for (const int64_t n : kWidths) {
    const auto weight = RandomFloats(n, 2);
    FloatBuffer w(*backend_, 1, n, weight), w_reference(*reference_, 1, n, weight);
    const Op op = [&](Backend& backend, Tensor in, Tensor out, int64_t) {
      const float* weights = &backend == backend_.get() ? w.data() : w_reference.data();
      backend.RmsNorm(in, weights, 1e-5f, out);
    };
    Check(op, RandomFloats(kTokens * n, 3, 5.0f), kTokens, n, n, (n / 16 + 5) / 2 + 5);
  }
}

TEST_P(BackendOps, RmsNormInPlace) {
  const auto x = RandomFloats(3 * 70, 3);
  const std::vector<float> weight(70, 0.5f);
  FloatBuffer in(*backend_, 3, 70, x), out(*backend_, 3, 70), w(*backend_, 1, 70, weight);
  backend_->RmsNorm(in.tensor(), w.data(), 1e-5f, out.tensor());
  backend_->RmsNorm(in.tensor(), w.data(), 1e-5f, in.tensor());
  backend_->Synchronize();
  EXPECT_TRUE(test::SameBits(in.Read(), out.Read()));
}

// exp is within 2 units, 1 + exp and the division round; gelu's exponent carries the rounding of
// its polynomial, up to 4 units of an exponent of up to 88: 2^-24 * 4 * 88 of the value.
TEST_P(BackendOps, GatedActivation) {
  for (const int64_t n : kWidths) {
    auto x = RandomFloats(kTokens * 2 * n, 4, 8.0f);
    for (size_t i = 0; i < x.size(); i += 11) x[i] *= 30.0f;  // saturates both ways
    for (const GatedKind kind : {GatedKind::kSilu, GatedKind::kGeluTanh}) {
      const Op op = [&](Backend& backend, Tensor in, Tensor out, int64_t) {
        backend.GatedActivation(in, kind, out);
      };
      Check(op, x, kTokens, 2 * n, n, kind == GatedKind::kSilu ? 8 : 4 * 88, 1e-30);
    }
  }
}

TEST_P(BackendOps, AddResidual) {
  for (const int64_t n : kWidths) {
    const auto norm = RandomFloats(n, 5), residual = RandomFloats(kTokens * n, 6);
    FloatBuffer w(*backend_, 1, n, norm), w_reference(*reference_, 1, n, norm);
    for (const bool post_norm : {false, true}) {
      for (const float keep : {1.0f, 0.5f}) {
        const Op op = [&](Backend& backend, Tensor in, Tensor out, int64_t begin) {
          const bool ours = &backend == backend_.get();
          const std::vector<float> rows(residual.begin() + begin * n,
                                        residual.begin() + (begin + in.rows) * n);
          for (int64_t t = 0; t < in.rows; ++t) {
            backend.Upload(rows.data() + t * n, out.row(t), n * sizeof(float));
          }
          const float* weights = ours ? w.data() : w_reference.data();
          backend.AddResidual(out, in, keep, post_norm ? weights : nullptr, 1e-6f);
          backend.Synchronize();
        };
        // Values of at most sqrt(n): the norm's error (as above) counts in full where it cancels.
        const double size = std::sqrt(static_cast<double>(n)) + 1;
        Check(op, RandomFloats(kTokens * n, 7), kTokens, n, n, 1,
              post_norm ? size * ((n / 16 + 5) / 2 + 6) * 0x1p-24 : 0.0);
      }
    }
  }
}

// Two steps, each from host arrays of its own, of which the first is waited for when both are
// enqueued.
TEST_P(BackendOps, AStepMayBeEnqueuedBehindAMark) {
  const int64_t n = 70;
  FloatBuffer x(*backend_, 3, n, RandomFloats(3 * n, 3));
  FloatBuffer first(*backend_, 2, n), second(*backend_, 2, n);
  const std::vector<int32_t> rows = {2, 0}, other_rows = {1, 2};
  backend_->GatherRows(x.tensor(), rows, first.tensor());
  const uint64_t mark = backend_->Mark();
  backend_->GatherRows(x.tensor(), other_rows, second.tensor());
  const uint64_t other_mark = backend_->Mark();
  EXPECT_TRUE(backend_->WaitFor(mark).ok());
  EXPECT_TRUE(backend_->Reached(mark));
  EXPECT_TRUE(backend_->WaitFor(other_mark).ok());
  const auto want = x.Read();
  const auto expect_rows = [&](const FloatBuffer& got, const std::vector<int32_t>& of) {
    for (int64_t t = 0; t < 2; ++t) {
      EXPECT_TRUE(test::SameBits({got.Read().data() + t * n, static_cast<size_t>(n)},
                                 {want.data() + of[t] * n, static_cast<size_t>(n)}));
    }
  };
  expect_rows(first, rows);
  expect_rows(second, other_rows);
}

// One op for a sum in the order of its terms, AddResidual and RmsNorm, with the bits of all three.
TEST_P(BackendOps, AddResidualNormAddsTermsInOrderThenNorms) {
  for (const int64_t n : kWidths) {
    const auto norm = RandomFloats(n, 5), start = RandomFloats(kTokens * n, 6);
    FloatBuffer w(*backend_, 1, n, norm);
    for (const int ranks : {1, 2, 3}) {
      std::vector<std::vector<float>> values;
      std::vector<float> sum = RandomFloats(kTokens * n, 7);
      for (int r = 0; r < ranks; ++r) {
        values.push_back(r == 0 ? sum : RandomFloats(kTokens * n, 7 + r));
        for (size_t i = 0; r > 0 && i < sum.size(); ++i) sum[i] += values[r][i];
      }
      FloatBuffer delta(*backend_, kTokens, n, sum);
      std::deque<FloatBuffer> of_ranks;
      std::vector<const float*> terms;
      for (const std::vector<float>& one : values) {
        terms.push_back(of_ranks.emplace_back(*backend_, kTokens, n, one).data());
      }
      for (const bool post_norm : {false, true}) {
        const float* post = post_norm ? w.data() : nullptr;
        FloatBuffer apart(*backend_, kTokens, n, start), one(*backend_, kTokens, n, start);
        FloatBuffer apart_normed(*backend_, kTokens, n), normed(*backend_, kTokens, n, n + 2, 1);
        backend_->AddResidual(apart.tensor(), delta.tensor(), 0.5f, post, 1e-6f);
        backend_->RmsNorm(apart.tensor(), w.data(), 1e-6f, apart_normed.tensor());
        backend_->AddResidualNorm(one.tensor(), terms, 0.5f, post, w.data(), 1e-6f,
                                  normed.tensor());
        backend_->Synchronize();
        EXPECT_TRUE(normed.GuardsIntact());
        EXPECT_TRUE(test::SameBits(one.Read(), apart.Read())) << n << " " << ranks;
        EXPECT_TRUE(test::SameBits(normed.Read(), apart_normed.Read())) << n << " " << ranks;
      }
    }
  }
}

// A sum that takes the residual's place, where one of its terms lies.
TEST_P(BackendOps, AddResidualNormThatKeepsNothing) {
  constexpr int64_t kWide = 37;
  const auto values = RandomFloats(kTokens * kWide, 5);
  FloatBuffer stream(*backend_, kTokens, kWide, values),
      w(*backend_, 1, kWide, RandomFloats(kWide, 6));
  FloatBuffer normed(*backend_, kTokens, kWide), expected(*backend_, kTokens, kWide);
  FloatBuffer other(*backend_, kTokens, kWide, values);
  std::vector<float> sum = values;
  for (float& value : sum) value += value;
  const std::vector<const float*> terms = {other.data(), stream.data()};
  backend_->AddResidualNorm(stream.tensor(), terms, 0.0f, nullptr, w.data(), 1e-6f,
                            normed.tensor());
  backend_->Synchronize();
  EXPECT_TRUE(test::SameBits(stream.Read(), sum));
  backend_->RmsNorm(stream.tensor(), w.data(), 1e-6f, expected.tensor());
  backend_->Synchronize();
  EXPECT_TRUE(test::SameBits(normed.Read(), expected.Read()));
}

TEST_P(BackendOps, CopyTakesItsPlaceAmongOps) {
  const auto values = RandomFloats(2 * 17, 8);
  FloatBuffer from(*backend_, 2, 17, values), to(*backend_, 2, 17, 18);
  backend_->AddResidual(from.tensor(), from.tensor(), 1.0f, nullptr, 0.0f);
  backend_->Copy(from.tensor().row(1), to.tensor().row(0), 17 * sizeof(float));
  backend_->AddResidual(from.tensor(), from.tensor(), 1.0f, nullptr, 0.0f);
  backend_->Copy(from.tensor().row(1), to.tensor().row(1), 17 * sizeof(float));
  backend_->Synchronize();
  EXPECT_TRUE(to.GuardsIntact());
  const auto got = to.Read();
  for (int i = 0; i < 17; ++i) {
    EXPECT_EQ(got[i], 2.0f * values[17 + i]);
    EXPECT_EQ(got[17 + i], 4.0f * values[17 + i]);
  }
}

TEST_P(BackendOps, GatherRows) {
  const auto x = RandomFloats(9 * 17, 8);
  const int32_t rows[] = {8, 0, 0, 3};
  FloatBuffer in(*backend_, 9, 17, x, 20), out(*backend_, 4, 17, 18);
  backend_->GatherRows(in.tensor(), rows, out.tensor());
  backend_->Synchronize();
  EXPECT_TRUE(out.GuardsIntact());
  const auto got = out.Read();
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(test::SameBits({got.data() + i * 17, 17}, {x.data() + rows[i] * 17, 17}));
  }
}

TEST_P(BackendOps, SaysWhatItIs) {
  EXPECT_EQ(backend_->name(), GetParam().name);
  EXPECT_NE(backend_->Describe().find(std::to_string(GetParam().threads) + " thread"),
            std::string::npos);
  EXPECT_EQ(backend_->NumericsFingerprint().rfind(GetParam().name + "/", 0), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, BackendOps, testing::ValuesIn(test::BackendCases()), test::CaseName);

// All instruction sets compute the same lanes in the same order.
class CpuIsa : public testing::TestWithParam<const char*> {};

TEST_P(CpuIsa, GivesTheBitsOfAvx2) {
  auto wide = MakeBackend({.name = "cpu", .isa = GetParam()});
  if (!wide.ok()) GTEST_SKIP() << wide.error().message;
  auto narrow = test::MustMake("cpu", 1, "avx2");
  EXPECT_EQ((*wide)->NumericsFingerprint(), narrow->NumericsFingerprint()) << "they form one group";
  const int64_t cols = 512, rows = 37, tokens = 9;
  const auto x = RandomFloats(tokens * cols, 72, 3.0f);
  for (const TensorFormatInfo& info : TensorFormats()) {
    const auto matrix = test::RandomMatrix(info.format, rows, cols, 71);
    std::vector<float> got[2];
    int i = 0;
    for (Backend* backend : {wide->get(), narrow.get()}) {
      auto weight = test::MustPack(*backend, {matrix.Cut(7, 501)});
      FloatBuffer in(*backend, tokens, cols, x), out(*backend, tokens, rows);
      backend->RmsNorm(in.tensor(), x.data(), 1e-5f, in.tensor());
      backend->MatMul(in.tensor().Cols(0, 494), *weight, nullptr, out.tensor());
      backend->GatedActivation(in.tensor(), GatedKind::kGeluTanh, in.tensor().Cols(0, 256));
      backend->AddResidual(in.tensor().Cols(0, 37), out.tensor(), 0.7f, x.data(), 1e-5f);
      got[i] = out.Read();
      const auto residual = in.Read();
      got[i].insert(got[i].end(), residual.begin(), residual.end());
      ++i;
    }
    EXPECT_TRUE(test::SameBits(got[0], got[1])) << info.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuIsa, testing::Values("avxvnni", "avx512"),
                         [](const auto& param) { return std::string(param.param); });

TEST(CpuIsa, RefusesUnknownOnes) {
  EXPECT_EQ(MakeBackend({.name = "cpu", .isa = "mmx"}).error().field, "isa");
}

}  // namespace
}  // namespace echelon
