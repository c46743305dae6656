// What an emulation takes for granted and a device need not: addresses beyond 32 bits, numbers that
// are none beside others in the tensor cores, memory that grows under graphs, errors that the
// driver keeps. (In gpu_test these ask the device; emulated they try the tests themselves.)

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/device_link.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;
using test::SameBits;

class CudaHardware : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeBackend({.name = "cuda"});
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    backend_ = std::move(*made);
    emulated_ = backend_->Describe().find("emulated") != std::string::npos;
  }
  std::vector<float> Multiply(const Weight& w, const std::vector<float>& x) {
    const int64_t rows = static_cast<int64_t>(x.size()) / w.cols();
    FloatBuffer in(*backend_, rows, w.cols(), x), out(*backend_, rows, w.rows());
    backend_->MatMul(in.tensor(), w, nullptr, out.tensor());
    backend_->Synchronize();
    return out.Read();
  }

  std::unique_ptr<Backend> backend_;
  bool emulated_ = false;
};

// 64 KiB a page: the last of 80,000 begin 5 GB behind the first.
TEST_F(CudaHardware, PagesLieBeyondFourGibibytes) {
  const KvShape shape = {.layers = 1, .page_tokens = 16, .kv_heads = 8, .head_dim = 128};
  const int many = emulated_ ? 40 : 80'000;
  if (!emulated_ && backend_->FreeMemoryBytes() < uint64_t{8} << 30) GTEST_SKIP() << "8 GiB needed";
  const auto attend = [&](std::vector<int32_t> pages) {
    constexpr int kLength = 300, kHeads = 32;
    const test::CachedSequence kept(*backend_, shape, 0, kHeads, kLength, std::move(pages));
    FloatBuffer out(*backend_, kLength, kHeads * shape.head_dim);
    AttentionArgs args = kept.Args();
    args.rows = {kept.positions, kept.sequences, kept.page_begin, kept.pages};
    args.out = out.tensor();
    backend_->Attention(args);
    backend_->Synchronize();
    return out.Read();
  };
  std::vector<int32_t> first(20), last(static_cast<size_t>(many));
  std::iota(first.begin(), first.end(), 0);
  std::iota(last.rbegin(), last.rend(), 0);
  EXPECT_TRUE(SameBits(attend(last), attend(first)));
}

// A row of NaN and infinities changes no bit of the rows beside it.
TEST_F(CudaHardware, RowsThatAreNoNumbersStayAlone) {
  constexpr int64_t kCols = 256;
  const auto matrix = test::RandomMatrix(TensorFormat::kQ4_1, emulated_ ? 140 : 3600, kCols, 7);
  const auto weight = test::MustPack(*backend_, {matrix.view});
  for (const int64_t tokens : {3, 12, 40, 70}) {
    auto x = RandomFloats(tokens * kCols, 8, 3.0f);
    const auto want = Multiply(*weight, x);
    for (int64_t i = 0; i < kCols; ++i) {
      x[kCols + i] = i % 2 == 0 ? std::nanf("") : std::numeric_limits<float>::infinity();
    }
    const auto got = Multiply(*weight, x);
    const auto n = static_cast<size_t>(weight->rows());
    EXPECT_TRUE(SameBits({got.data(), n}, {want.data(), n})) << tokens;
    EXPECT_TRUE(SameBits({got.data() + 2 * n, got.size() - 2 * n},
                         {want.data() + 2 * n, want.size() - 2 * n}))
        << tokens;
  }
}

// Places behind a row's position, in the block of places that it is scored with.
TEST_F(CudaHardware, WhatNoRowSeesMayBeAnything) {
  const KvShape shape = {.layers = 1, .page_tokens = 16, .kv_heads = 2, .head_dim = 64};
  constexpr int kLength = 300, kHeads = 6, kPosition = 269;
  std::vector<int32_t> pages(19);
  std::iota(pages.begin(), pages.end(), 0);
  const test::CachedSequence kept(*backend_, shape, 0, kHeads, kLength, pages);
  FloatBuffer out(*backend_, 1, kHeads * shape.head_dim);
  const auto attend = [&] {
    AttentionArgs args = kept.Args();
    args.q = args.q.Rows(kPosition, kPosition + 1);
    args.rows = {std::span(kept.positions).subspan(kPosition, 1),
                 std::span(kept.sequences).subspan(kPosition, 1), kept.page_begin, kept.pages};
    args.out = out.tensor();
    backend_->Attention(args);
    backend_->Synchronize();
    return out.Read();
  };
  const auto want = attend();
  constexpr int kBehind = kLength - kPosition - 1;
  const int64_t cols = (kHeads + 2 * shape.kv_heads) * int64_t{shape.head_dim};
  const FloatBuffer none(*backend_, kBehind, cols,
                         std::vector<float>(static_cast<size_t>(kBehind * cols), std::nanf("")));
  const std::vector<double> frequency(static_cast<size_t>(shape.head_dim / 2), 0.0);
  backend_->RopeAppend(
      {.qkv = none.tensor(),
       .heads = kHeads,
       .kv_heads = shape.kv_heads,
       .head_dim = shape.head_dim,
       .rope = {frequency, false},
       .rows = {std::span(kept.positions).subspan(kPosition + 1),
                std::span(kept.sequences).subspan(kPosition + 1), kept.page_begin, kept.pages},
       .cache = kept.cache.get(),
       .layer = 0});
  backend_->Synchronize();
  EXPECT_TRUE(SameBits(attend(), want));
}

// A graph holds addresses of memory that a larger op outgrows.
TEST_F(CudaHardware, GraphsGoOnWhereMemoryHasGrown) {
  const auto small = test::RandomMatrix(TensorFormat::kF16, 48, 64, 3);
  const auto large = test::RandomMatrix(TensorFormat::kF16, 32, 2048, 4);
  const auto narrow = test::MustPack(*backend_, {small.view});
  const auto wide = test::MustPack(*backend_, {large.view});
  const FloatBuffer x(*backend_, 2, 64, RandomFloats(2 * 64, 5)), out(*backend_, 2, 48);
  const auto repeat = [&] {
    backend_->Repeat(2, [&] { backend_->MatMul(x.tensor(), *narrow, nullptr, out.tensor()); });
    backend_->Synchronize();
    return out.Read();
  };
  const auto want = repeat();
  for (const int64_t rows : {1, 30, 200}) {
    Multiply(*wide, RandomFloats(rows * 2048, 6));
    EXPECT_TRUE(SameBits(repeat(), want)) << rows;
    EXPECT_TRUE(SameBits(repeat(), want)) << rows;
  }
}

// What failed and was told is not found again behind the next launch.
TEST_F(CudaHardware, AnErrorIsToldOnce) {
  EXPECT_FALSE(backend_->Allocate(size_t{1} << 50).ok());
  const auto link = backend_->NewLink().value();
  const auto memory = backend_->Allocate(size_t{4} << 20).value();
  PeerHandle own = link->Share(*memory);
  ++own.process;  // a driver does not map what this process itself has
  EXPECT_FALSE(link->Map(own).ok());
  const auto ones = RandomFloats(64, 1);
  FloatBuffer row(*backend_, 1, 64, ones);
  backend_->AddResidual(row.tensor(), row.tensor(), 1.0f, nullptr, 0.0f);
  backend_->Synchronize();
  ASSERT_TRUE(backend_->Health().ok()) << backend_->Health().error().message;
  EXPECT_EQ(row.Read()[5], 2.0f * ones[5]);
}

}  // namespace
}  // namespace echelon
