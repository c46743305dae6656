// MatMul and Embed of every backend: all formats, cuts inside blocks, stacked parts, uneven shards,
// misaligned rows; and that a row's bits depend on that row alone.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>

#include "kernels/quant/quant.h"
#include "tests/unit/kernels/backend_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;
using test::StoredMatrix;

class BackendMatMul : public test::BackendTest {
 protected:
  std::vector<float> Run(Backend& backend, const Weight& weight, const std::vector<float>& x,
                         int64_t tokens, const float* bias, int64_t shift = 0) {
    const int64_t cols = weight.cols(), rows = weight.rows();
    FloatBuffer in(backend, tokens, cols, x, cols + 3 * shift, shift);
    FloatBuffer out(backend, tokens, rows, rows + 5 * shift, shift);
    FloatBuffer device_bias(backend, 1, rows,
                            bias ? std::vector<float>(bias, bias + rows)
                                 : std::vector<float>(static_cast<size_t>(rows), 0.0f));
    backend.MatMul(in.tensor(), weight, bias ? device_bias.data() : nullptr, out.tensor());
    backend.Synchronize();
    EXPECT_TRUE(out.GuardsIntact());
    return out.Read();
  }
};

// x as a backend with 15-bit activations sees it: groups of 32 from the block that holds column
// `begin` on.
std::vector<double> RoundActivations(const float* x, int64_t cols, int64_t begin) {
  std::vector<double> rounded(static_cast<size_t>(cols));
  for (int64_t k = 0; k < cols;) {
    const int64_t group_end = std::min(cols, ((begin + k) / 32 + 1) * 32 - begin);
    float most = 0.0f;
    for (int64_t i = k; i < group_end; ++i) most = std::max(most, std::fabs(x[i]));
    const float inverse = most == 0.0f ? 0.0f : 16256.0f / most;
    for (; k < group_end; ++k) rounded[k] = std::nearbyint(x[k] * inverse) * (most / 16256.0f);
  }
  return rounded;
}

// x as a backend with tensor cores sees it: the sum of two bfloat16 numbers.
std::vector<double> RoundToPairs(const float* x, int64_t cols) {
  const auto to_bf16 = [](float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
  };
  std::vector<double> rounded;
  for (int64_t k = 0; k < cols; ++k) {
    const float high = to_bf16(x[k]);
    rounded.push_back(static_cast<double>(high) + to_bf16(x[k] - high));
  }
  return rounded;
}

struct Expected {
  double value;
  double tolerance;
};

// The exact product, and by how much a backend that sums in float may miss it: each of the K / 8
// (or fewer) additions of a lane, its scaling and its conversion round by 2^-24 of the sum of
// magnitudes so far (tensor cores cut off, each time 8 products more); a minimum is summed apart
// from its codes, so both count in full.
Expected Product(const StoredMatrix& matrix, int64_t row, const double* x, int64_t begin,
                 int64_t end, float bias, double roundings) {
  const std::vector<float> w = matrix.Row(row);
  const TensorFormatInfo& info = InfoOf(matrix.view.format);
  const QuantFormat* quant = FindQuantFormat(matrix.view.format);
  double sum = bias, size = std::fabs(bias);
  CodeGroup groups[8];
  for (int64_t k = begin; k < end; ++k) {
    double weight_size = std::fabs(w[k]);
    if (quant != nullptr && quant->has_min) {
      if (k == begin || k % info.block_elements == 0) {
        quant->unpack(matrix.view.data + row * matrix.view.row_bytes +
                          k / info.block_elements * info.block_bytes,
                      groups);
      }
      weight_size += 2.0 * std::fabs(groups[k % info.block_elements / 32].min);
    }
    sum += static_cast<double>(w[k]) * x[k - begin];
    size += weight_size * std::fabs(x[k - begin]);
  }
  return {sum, std::fabs(sum) * 0x1p-24 + roundings * size * 0x1p-24 + 1e-30};
}

struct Shape {
  int64_t rows, blocks, begin, cut, tokens;  // columns: blocks * block - begin - cut
};

TEST_P(BackendMatMul, EveryFormatAndShape) {
  const Shape shapes[] = {{1, 1, 0, 0, 1},   {15, 3, 0, 0, 2},  {16, 18, 0, 0, 5},
                          {17, 2, 0, 0, 8},  {33, 4, 5, 3, 3},  {40, 3, 33, 1, 13},
                          {7, 2, 17, 14, 9}, {48, 2, 0, 31, 4}, {100, 1, 1, 0, 17}};
  for (const TensorFormatInfo& info : TensorFormats()) {
    for (const Shape& shape : shapes) {
      SCOPED_TRACE(std::string(info.name) + " rows " + std::to_string(shape.rows) + " blocks " +
                   std::to_string(shape.blocks) + " from " + std::to_string(shape.begin));
      const int64_t block = std::max(info.block_elements, 32);
      const auto matrix = test::RandomMatrix(info.format, shape.rows, shape.blocks * block, 11);
      const int64_t end = shape.blocks * block - shape.cut;
      const int64_t cols = end - shape.begin;
      auto weight = test::MustPack(*backend_, {matrix.Cut(shape.begin, end)});
      ASSERT_EQ(weight->cols(), cols);
      const auto x = RandomFloats(shape.tokens * cols, 12, 4.0f);
      const auto bias = RandomFloats(shape.rows, 13);
      const auto got = Run(*backend_, *weight, x, shape.tokens, bias.data(), shape.tokens % 2);
      const bool rounds = GetParam().rounds_activations && FindQuantFormat(info.format) != nullptr;
      const bool pairs = GetParam().name == "cuda";
      const double roundings = static_cast<double>(cols) / (pairs ? 2 : 8) + 8;
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const float* from = x.data() + t * cols;
        const std::vector<double> row = rounds  ? RoundActivations(from, cols, shape.begin)
                                        : pairs ? RoundToPairs(from, cols)
                                                : std::vector<double>(from, from + cols);
        for (int64_t n = 0; n < shape.rows; ++n) {
          const Expected want =
              Product(matrix, n, row.data(), shape.begin, end, bias[n], exact() ? 1e-6 : roundings);
          ASSERT_NEAR(got[t * shape.rows + n], want.value, want.tolerance) << t << " " << n;
        }
      }
    }
  }
}

// The reference sees activations as they are; one that rounds them may differ by half a step of
// each: largest magnitude of the group / 32512, times the weights' magnitudes.
TEST_P(BackendMatMul, AgreesWithTheReference) {
  for (const TensorFormatInfo& info : TensorFormats()) {
    SCOPED_TRACE(std::string(info.name));
    const int64_t cols = 512, rows = 24, tokens = 3;
    const auto matrix = test::RandomMatrix(info.format, rows, cols, 21);
    const auto x = RandomFloats(tokens * cols, 22);  // in [-1, 1]
    const auto got = Run(*backend_, *test::MustPack(*backend_, {matrix.view}), x, tokens, nullptr);
    const auto want =
        Run(*reference_, *test::MustPack(*reference_, {matrix.view}), x, tokens, nullptr);
    for (int64_t n = 0; n < rows; ++n) {
      double size = 0.0;
      for (const float w : matrix.Row(n)) size += std::fabs(w);
      const double tolerance = exact() ? 0.0 : size * (1.0 / 32512 + 1e-5);
      for (int64_t t = 0; t < tokens; ++t) {
        ASSERT_NEAR(got[t * rows + n], want[t * rows + n], tolerance);
      }
    }
  }
}

TEST_P(BackendMatMul, StackedPartsEqualSingleOnes) {
  const int64_t cols = 512, begin = 20, end = 490, tokens = 6;
  std::vector<StoredMatrix> parts;
  std::vector<HostMatrix> views;
  int64_t rows = 0;
  for (const TensorFormatInfo& info : TensorFormats()) {
    parts.push_back(test::RandomMatrix(info.format, 9 + 4 * parts.size(), cols, 31));
    rows += parts.back().view.rows;
  }
  for (const StoredMatrix& part : parts) views.push_back(part.Cut(begin, end));
  auto stacked = test::MustPack(*backend_, views);
  ASSERT_EQ(stacked->rows(), rows);
  EXPECT_GE(stacked->bytes(), parts[0].bytes.size());
  const auto x = RandomFloats(tokens * (end - begin), 32);
  const auto all = Run(*backend_, *stacked, x, tokens, nullptr);
  int64_t first = 0;
  for (const HostMatrix& view : views) {
    const auto one = Run(*backend_, *test::MustPack(*backend_, {view}), x, tokens, nullptr);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < view.rows; ++n) {
        ASSERT_EQ(all[t * rows + first + n], one[t * view.rows + n]) << InfoOf(view.format).name;
      }
    }
    first += view.rows;
  }
}

// Row t has the same bits alone, in chunks of any size and on any number of threads.
// One op for two, with the bits of two: outputs that fill groups of 32 and others, of one part and
// of two, few rows and many; `out` apart, and as a step has it the first half of the products.
TEST_P(BackendMatMul, GatedMatMulIsMatMulThenActivation) {
  const int64_t k = 288, most = 20;
  for (const TensorFormat format : {TensorFormat::kQ4_1, TensorFormat::kQ6_K, TensorFormat::kQ8_0,
                                    TensorFormat::kBF16, TensorFormat::kF32}) {
    const int64_t cols = format == TensorFormat::kQ6_K ? 256 : k;
    const auto x = RandomFloats(most * cols, 3);
    for (const int64_t f : {32, 40, 96}) {
      SCOPED_TRACE(std::string(InfoOf(format).name) + " " + std::to_string(f));
      const auto gate = test::RandomMatrix(format, f, cols, 4),
                 up = test::RandomMatrix(format, f, cols, 5);
      const auto weight = test::MustPack(*backend_, {gate.view, up.view});
      for (const int64_t rows : {int64_t{1}, int64_t{8}, int64_t{9}, int64_t{16}, most}) {
        const GatedKind kind = rows % 2 == 0 ? GatedKind::kSilu : GatedKind::kGeluTanh;
        FloatBuffer in(*backend_, rows, cols, {x.begin(), x.begin() + rows * cols}, cols + 3, 1);
        FloatBuffer products(*backend_, rows, 2 * f), scratch(*backend_, rows, 2 * f);
        FloatBuffer want(*backend_, rows, f), got(*backend_, rows, f, f + 5, 1);
        backend_->MatMul(in.tensor(), *weight, nullptr, products.tensor());
        backend_->GatedActivation(products.tensor(), kind, want.tensor());
        backend_->GatedMatMul(in.tensor(), *weight, *weight, kind, scratch.tensor(), got.tensor());
        backend_->Synchronize();
        EXPECT_TRUE(test::SameBits(got.Read(), want.Read())) << rows;
        EXPECT_TRUE(got.GuardsIntact());
        const Tensor hidden = scratch.tensor().Cols(0, f);
        backend_->GatedMatMul(in.tensor(), *weight, *weight, kind, scratch.tensor(), hidden);
        backend_->Synchronize();
        const auto of_scratch = scratch.Read(), wanted = want.Read();
        for (int64_t t = 0; t < rows; ++t) {
          EXPECT_TRUE(test::SameBits({of_scratch.data() + t * 2 * f, static_cast<size_t>(f)},
                                     {wanted.data() + t * f, static_cast<size_t>(f)}));
        }
      }
    }
  }
}

TEST_P(BackendMatMul, RowsDependOnNothingElse) {
  const int64_t cols = 256, rows = 50, tokens = 23;
  auto single = test::MustMake(GetParam().name, 1, GetParam().isa);
  for (const TensorFormatInfo& info : TensorFormats()) {
    SCOPED_TRACE(std::string(info.name));
    const auto matrix = test::RandomMatrix(info.format, rows, cols, 41);
    auto weight = test::MustPack(*backend_, {matrix.view});
    auto single_weight = test::MustPack(*single, {matrix.view});
    const auto x = RandomFloats(tokens * cols, 42);
    const auto all = Run(*backend_, *weight, x, tokens, nullptr);
    EXPECT_TRUE(test::SameBits(all, Run(*single, *single_weight, x, tokens, nullptr)));
    for (const int64_t chunk : {1, 2, 3, 7, 8, 12}) {
      for (int64_t t = 0; t < tokens; t += chunk) {
        const int64_t count = std::min(chunk, tokens - t);
        const std::vector<float> part(x.begin() + t * cols, x.begin() + (t + count) * cols);
        const auto got = Run(*backend_, *weight, part, count, nullptr);
        ASSERT_TRUE(test::SameBits(got, {all.data() + t * rows, got.size()})) << chunk;
      }
    }
  }
}

TEST_P(BackendMatMul, ZeroActivationsAndTinyOnesAreNoTrouble) {
  const auto matrix = test::RandomMatrix(TensorFormat::kQ4_1, 16, 64, 51);
  auto weight = test::MustPack(*backend_, {matrix.view});
  for (const float value : {0.0f, 1e-38f, 1e-42f}) {
    const std::vector<float> x(64, value);
    for (const float got : Run(*backend_, *weight, x, 1, nullptr)) {
      EXPECT_NEAR(got, 0.0f, 1e-36f);
    }
  }
}

TEST_P(BackendMatMul, EmbedReadsRowsOfItsRange) {
  for (const TensorFormatInfo& info : TensorFormats()) {
    SCOPED_TRACE(std::string(info.name));
    const auto table = test::RandomMatrix(info.format, 21, 256, 61);
    auto weight = test::MustPack(*backend_, {table.Cut(3, 250)});
    const int32_t ids[] = {99, 100, 117, 120, 121, 100};
    FloatBuffer out(*backend_, 6, 247, 250);
    backend_->Embed(ids, *weight, 100, 3.0f, out.tensor());
    backend_->Synchronize();
    EXPECT_TRUE(out.GuardsIntact());
    const auto got = out.Read();
    for (int t = 0; t < 6; ++t) {
      const bool here = ids[t] >= 100 && ids[t] < 121;
      for (int i = 0; i < 247; ++i) {
        const float want = here ? table.Row(ids[t] - 100)[i + 3] * 3.0f : 0.0f;
        ASSERT_EQ(got[t * 247 + i], want) << t << " " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendMatMul, testing::ValuesIn(test::BackendCases()),
                         test::CaseName);

}  // namespace
}  // namespace echelon
