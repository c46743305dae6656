// A row of a product has the same bits in every kernel that may compute it: alone, with 8, 16 or 32
// others, or among so many that blocks take 64 or 128 at a time. (Formats, shapes and values: the
// test bodies of every backend.)

#include <gtest/gtest.h>

#include <span>
#include <string>

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

// Segments longer than a warp's ring (weight_ring.cuh), so that its stages are filled again, and a
// last one that is shorter; the kernel of many rows has stages of its own.
TEST(CudaMatMul, ARowHasTheSameBitsWhereSegmentsAreLong) {
  auto made = MakeBackend({.name = "cuda"});
  if (!made.ok()) GTEST_SKIP() << made.error().message;
  Backend& backend = **made;
  const bool emulated = backend.Describe().find("emulated") != std::string::npos;
  const int64_t rows = emulated ? 64 : 9216, outs = rows / 2, tokens = 33;
  for (const TensorFormatInfo& info : TensorFormats()) {
    // 136 groups, 17 a segment; 123, 16 a segment and 11 in the last (of K-quants 120).
    const int64_t less = 15 * 256 + (info.block_elements <= 32 ? 96 : 0);
    for (const int64_t width : {int64_t{17 * 256}, less}) {
      SCOPED_TRACE(std::string(info.name) + " " + std::to_string(width));
      const auto matrix = test::RandomMatrix(info.format, rows, width, 9);
      const auto weight = test::MustPack(backend, {matrix.view});
      const auto x = test::RandomFloats(tokens * width, 10, 3.0f);
      test::FloatBuffer in(backend, tokens, width, x), out(backend, tokens, rows);
      backend.MatMul(in.tensor(), *weight, nullptr, out.tensor());
      backend.Synchronize();
      const auto all = out.Read();
      for (const int64_t count : {1, 9, 17}) {
        test::FloatBuffer some(backend, count, rows), gated(backend, count, outs),
            scratch(backend, count, rows), want(backend, count, outs);
        const Tensor few = in.tensor().Rows(0, count);
        backend.MatMul(few, *weight, nullptr, some.tensor());
        backend.GatedActivation(out.tensor().Rows(0, count), GatedKind::kSilu, want.tensor());
        backend.GatedMatMul(few, *weight, *weight, GatedKind::kSilu, scratch.tensor(),
                            gated.tensor());
        backend.Synchronize();
        EXPECT_TRUE(test::SameBits(some.Read(), std::span(all).first(count * rows))) << count;
        EXPECT_TRUE(test::SameBits(gated.Read(), want.Read())) << count;
      }
    }
  }
}

}  // namespace
}  // namespace echelon
