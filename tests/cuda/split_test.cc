// Ops that make a product's rows store them as the product wants them: one kernel less, the same
// bits; and rows that were changed since are never taken for what they were.

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace echelon
