// A row of a product has the same bits in every kernel that may compute it: alone, with 8, 16 or 32
// others, or among so many that blocks take 64 or 128 at a time. (Formats, shapes and values: the
// test bodies of every backend.)

#include <gtest/gtest.h>

#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

TEST(CudaMatMul, ARowHasTheSameBitsInEveryKernel) {
  auto made = MakeBackend({.name = "cuda"});
  if (!made.ok()) GTEST_SKIP() << made.error().message;
  Backend& backend = **made;
  // Enough blocks for the kernel of many rows on two multiprocessors or on 132.
  const bool emulated = backend.Describe().find("emulated") != std::string::npos;
  const int64_t rows = emulated ? 140 : 3600, tokens = emulated ? 70 : 600, cols = 9 * 256;
  for (const TensorFormatInfo& info : TensorFormats()) {
    SCOPED_TRACE(std::string(info.name));
    const int64_t width = emulated ? 256 : cols;
    const auto matrix = test::RandomMatrix(info.format, rows, width, 7);
    const auto weight = test::MustPack(backend, {matrix.view});
    const auto x = test::RandomFloats(tokens * width, 8, 3.0f);
    const auto multiply = [&](int64_t begin, int64_t end) {
      const std::vector<float> part(x.begin() + begin * width, x.begin() + end * width);
      test::FloatBuffer in(backend, end - begin, width, part), out(backend, end - begin, rows);
      backend.MatMul(in.tensor(), *weight, nullptr, out.tensor());
      backend.Synchronize();
      return out.Read();
    };
    const auto all = multiply(0, tokens);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 1}, {69, 70}, {5, 12}, {31, 47}, {20, 52}, {10, 60}}) {
      const auto some = multiply(begin, end);
      EXPECT_TRUE(test::SameBits(some, {all.data() + begin * rows, some.size()})) << begin;
    }
  }
}

}  // namespace
}  // namespace echelon
