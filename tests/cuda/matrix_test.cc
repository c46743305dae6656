// The equality matrix on emulated CUDA devices whose ranks exchange through their memory.

#include "tests/cuda/matrix_check.h"
#include "tests/cuda/stream_ranks.h"

namespace echelon {
namespace {

class CudaEqualityMatrix : public ::testing::TestWithParam<testing::MatrixRow> {
  const testing::EagerStreams eager_;
};

TEST_P(CudaEqualityMatrix, LayoutsThatDiffer) {
  testing::CheckMatrixRow(GetParam(), {.kind = "peer"});
}

INSTANTIATE_TEST_SUITE_P(cuda, CudaEqualityMatrix, ::testing::ValuesIn(testing::MatrixRows()),
                         testing::NameOfRow);

}  // namespace
}  // namespace echelon
