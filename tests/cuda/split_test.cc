// Ops that make a product's rows store them as the product wants them: one kernel less, the same
// bits; and rows that were changed since are never taken for what they were.

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/ops.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

class CudaSplit : public ::testing::Test {
 protected:
  // The product of x's rows as they are, and the kernels it took.
  std::vector<float> Multiply(const test::FloatBuffer& x, size_t* kernels) {
    const size_t before = emulation::KernelsEnqueued();
    backend_->MatMul(x.tensor(), *weight_, nullptr, out_.tensor());
    backend_->Synchronize();
    *kernels = emulation::KernelsEnqueued() - before;
    return out_.Read();
  }
  // The product is that of the values that x holds now, by way of a buffer that no op made.
  void ExpectProduct(const test::FloatBuffer& x, size_t kernels_wanted) {
    size_t kernels = 0, of_copy = 0;
    const auto got = Multiply(x, &kernels);
    const test::FloatBuffer copy(*backend_, kRows, kCols, x.Read());
    EXPECT_TRUE(test::SameBits(got, Multiply(copy, &of_copy)));
    EXPECT_EQ(kernels, kernels_wanted);
    EXPECT_EQ(of_copy, 2u);
  }

  static constexpr int64_t kRows = 3, kCols = 80;  // the last group is half a one
  std::unique_ptr<Backend> backend_ = test::MustMake("cuda", 1);
  const test::StoredMatrix matrix_ = test::RandomMatrix(TensorFormat::kBF16, 20, kCols, 1);
  std::unique_ptr<Weight> weight_ = test::MustPack(*backend_, {matrix_.view});
  test::FloatBuffer norm_{*backend_, 1, kCols, test::RandomFloats(kCols, 2)};
  test::FloatBuffer x_{*backend_, kRows, kCols, test::RandomFloats(kRows* kCols, 3)};
  test::FloatBuffer other_{*backend_, kRows, kCols, test::RandomFloats(kRows* kCols, 4)};
  test::FloatBuffer normed_{*backend_, kRows, kCols, kCols + 4, 1}, out_{*backend_, kRows, 20};
};

TEST_F(CudaSplit, NormsAndActivationsHaveStoredTheirRows) {
  backend_->RmsNorm(x_.tensor(), norm_.data(), 1e-5f, normed_.tensor());
  ExpectProduct(normed_, 1);
  const float* const other = other_.data();
  backend_->AddResidualNorm(x_.tensor(), {&other, 1}, 1.0f, nullptr, norm_.data(), 1e-5f,
                            normed_.tensor());
  ExpectProduct(normed_, 1);
  const test::FloatBuffer wide(*backend_, kRows, 2 * kCols,
                               test::RandomFloats(2 * kRows * kCols, 5));
  backend_->GatedActivation(wide.tensor(), GatedKind::kSilu, normed_.tensor());
  ExpectProduct(normed_, 1);
}

// Gate, up and activation are one kernel, whose rows the next product takes as they are; the rows
// it read itself are still there.
TEST_F(CudaSplit, AGatedProductIsOneKernel) {
  const int64_t f = 64;
  const auto matrix = test::RandomMatrix(TensorFormat::kBF16, 2 * f, kCols, 6);
  const auto down_matrix = test::RandomMatrix(TensorFormat::kQ4_1, 20, f, 7);
  const auto gate_up = test::MustPack(*backend_, {matrix.view});
  const auto down = test::MustPack(*backend_, {down_matrix.view});
  const test::FloatBuffer scratch(*backend_, kRows, 2 * f), out(*backend_, kRows, 20);
  const Tensor hidden = scratch.tensor().Cols(0, f);
  backend_->RmsNorm(x_.tensor(), norm_.data(), 1e-5f, normed_.tensor());
  const size_t before = emulation::KernelsEnqueued();
  backend_->GatedMatMul(normed_.tensor(), *gate_up, *down, GatedKind::kSilu, scratch.tensor(),
                        hidden);
  EXPECT_EQ(emulation::KernelsEnqueued(), before + 1);
  backend_->MatMul(hidden, *down, nullptr, out.tensor());
  EXPECT_EQ(emulation::KernelsEnqueued(), before + 2);
  backend_->Synchronize();
  const auto got = out.Read(), values = scratch.Read();
  std::vector<float> rows;
  for (int64_t t = 0; t < kRows; ++t) {
    rows.insert(rows.end(), values.begin() + t * 2 * f, values.begin() + t * 2 * f + f);
  }
  const test::FloatBuffer copy(*backend_, kRows, f, rows);
  backend_->MatMul(copy.tensor(), *down, nullptr, out.tensor());
  backend_->Synchronize();
  EXPECT_TRUE(test::SameBits(got, out.Read()));
}

TEST_F(CudaSplit, RowsThatChangedAreSplitAgain) {
  backend_->RmsNorm(x_.tensor(), norm_.data(), 1e-5f, normed_.tensor());
  backend_->AddResidual(normed_.tensor(), other_.tensor(), 0.5f, nullptr, 0.0f);
  ExpectProduct(normed_, 2);
  backend_->RmsNorm(x_.tensor(), norm_.data(), 1e-5f, normed_.tensor());
  const std::vector<float> zeros(kCols, 0.0f);
  backend_->Upload(zeros.data(), normed_.tensor().row(1), kCols * sizeof(float));
  ExpectProduct(normed_, 2);
  backend_->RmsNorm(x_.tensor(), norm_.data(), 1e-5f, normed_.tensor());
  ExpectProduct(x_, 2);  // other rows than those just stored
}

// More rows than a grid has blocks in any direction but the first.
TEST(CudaSplitRows, OfAPromptOfManyRows) {
  constexpr int64_t kMany = 65537;
  auto runtime = cuda::MakeRuntime();
  cuda::Stream stream = nullptr;
  ASSERT_TRUE(runtime->NewStream(false, &stream).ok());
  std::vector<float> values(kMany, 1.0f);
  values.back() = 3.0f;
  const size_t bytes = kMany * sizeof(float);
  auto* x = static_cast<float*>(emulation::TheArena().Take(bytes));
  emulation::CopyDevice(x, values.data(), bytes);
  cuda::SplitRows split = {nullptr, nullptr, kMany, 1};
  split.pairs = static_cast<char*>(emulation::TheArena().Take(split.Bytes()));
  split.totals = reinterpret_cast<float*>(split.pairs + split.PairBytes());
  cuda::LaunchSplitRows(stream, Tensor(x, kMany, 1), 0, split);
  runtime->Wait(stream);
  emulation::CopyDevice(values.data(), split.totals, bytes);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values.back(), 3.0f);
  emulation::TheArena().Give(split.pairs);
  emulation::TheArena().Give(x);
  runtime->FreeStream(stream);
}

}  // namespace
}  // namespace echelon
