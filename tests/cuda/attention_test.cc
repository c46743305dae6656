// A row of attention has the same bits in every kernel that may compute it: alone (a split a block,
// places spread over warps), among a few, or among so many that a warp goes through all its splits;
// as a whole or continued behind stored partial results. And it is the reference's within the
// tolerance of what is rounded. (Shards, odd sizes, chunks: the test bodies of every backend.)

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;
using test::SameBits;

struct Case {
  const char* name;
  int head_dim, heads, kv_heads, page_tokens, window;
  KvType type = KvType::kF16;
};
const Case kCases[] = {
    {"head_64", 64, 3, 1, 16, 0},
    {"head_80_odd_pages", 80, 2, 2, 24, 0},
    {"head_96_window", 96, 4, 2, 32, 70},
    {"head_128", 128, 4, 1, 16, 0},
    {"head_256", 256, 2, 1, 16, 0},
    {"head_16_of_more_than_a_tile", 16, 20, 1, 8, 0},
    {"q8_head_64", 64, 4, 2, 16, 0, KvType::kQ8_0},
    {"q8_head_80_window", 80, 2, 1, 8, 70, KvType::kQ8_0},
};

// One sequence of `length` positions, all of them queries too.
class Sequence {
 public:
  Sequence(Backend& backend, const Case& c, int length)
      : backend_(backend),
        c_(c),
        kept_(backend,
              {.layers = 1,
               .page_tokens = c.page_tokens,
               .kv_heads = c.kv_heads,
               .head_dim = c.head_dim,
               .type = c.type},
              0, c.heads, length, Backwards((length + c.page_tokens - 1) / c.page_tokens)) {}

  std::vector<float> Rows(int begin, int end) {
    FloatBuffer out(backend_, end - begin, int64_t{c_.heads} * c_.head_dim);
    AttentionArgs args = Args(begin, end);
    args.out = out.tensor();
    args.window = c_.window;
    args.rows.positions = std::span(kept_.positions).subspan(begin, end - begin);
    backend_.Attention(args);
    backend_.Synchronize();
    return out.Read();
  }

  // The same by way of stored partial results, the first `before` places in a call of their own.
  std::vector<float> RowsContinued(int begin, int end, int before) {
    const int count = end - begin;
    FloatBuffer partials(backend_, count, int64_t{c_.heads} * (c_.head_dim + 2));
    FloatBuffer out(backend_, count, int64_t{c_.heads} * c_.head_dim);
    for (const bool second : {false, true}) {
      std::vector<int32_t> first(count), last(count);
      for (int i = 0; i < count; ++i) {
        const int position = begin + i;
        first[i] = c_.window > 0 ? std::max(0, position - c_.window + 1) : 0;
        last[i] = second ? position + 1 - before : std::min(position + 1, before);
        if (second) first[i] -= before;  // below 0: behind what is stored
      }
      AttentionArgs args = Args(begin, end);
      args.begin = first;
      args.end = last;
      args.partials = partials.tensor();
      const std::vector<int32_t> rest(kept_.pages.begin() + before / c_.page_tokens,
                                      kept_.pages.end());
      const std::vector<int32_t> rest_begin = {0, static_cast<int32_t>(rest.size())};
      if (second) {
        args.rows.pages = rest;
        args.rows.page_begin = rest_begin;
      }
      backend_.Attention(args);
      backend_.Synchronize();
    }
    std::vector<int32_t> parts(count), part_begin(count + 1);
    std::iota(parts.begin(), parts.end(), 0);
    std::iota(part_begin.begin(), part_begin.end(), 0);
    backend_.MergeAttention({.partials = partials.tensor(),
                             .begin = part_begin,
                             .parts = parts,
                             .heads = c_.heads,
                             .head_dim = c_.head_dim,
                             .out = out.tensor()});
    backend_.Synchronize();
    return out.Read();
  }

 private:
  static std::vector<int32_t> Backwards(int count) {
    std::vector<int32_t> pages(count);
    std::iota(pages.rbegin(), pages.rend(), 0);
    return pages;
  }
  AttentionArgs Args(int begin, int end) const {
    AttentionArgs args = kept_.Args();
    args.q = args.q.Rows(begin, end);
    args.rows = {
        {}, std::span(kept_.sequences).subspan(begin, end - begin), kept_.page_begin, kept_.pages};
    return args;
  }

  Backend& backend_;
  const Case c_;
  const test::CachedSequence kept_;
};

class CudaAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeBackend({.name = "cuda"});
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    backend_ = std::move(*made);
    // Rows enough for whole units on two multiprocessors or on 132.
    length_ = backend_->Describe().find("emulated") != std::string::npos ? 290 : 4700;
  }
  std::unique_ptr<Backend> backend_;
  int length_ = 0;
};

TEST_F(CudaAttention, ARowHasTheSameBitsInEveryKernel) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Sequence sequence(*backend_, c, length_);
    const auto all = sequence.Rows(0, length_);
    const int64_t cols = int64_t{c.heads} * c.head_dim;
    for (const auto& [begin, end] : {std::pair(0, 1), {31, 33}, {250, 280}, {289, 290}}) {
      const auto some = sequence.Rows(begin, end);
      EXPECT_TRUE(SameBits(some, {all.data() + begin * cols, some.size()})) << begin;
    }
  }
}

TEST_F(CudaAttention, StoredPartialResultsAreContinuedBitForBit) {
  for (const Case& c : kCases) {
    if (kAttentionSplit % c.page_tokens != 0) continue;
    SCOPED_TRACE(c.name);
    Sequence sequence(*backend_, c, length_);
    const int begin = length_ - 80;
    EXPECT_TRUE(SameBits(sequence.Rows(begin, length_),
                         sequence.RowsContinued(begin, length_, kAttentionSplit)));
  }
}

// Float sums as in BackendAttention: 1e-3 is some three times what they may be off; codes' queries
// and weights have 16 bits, and a code that rounded otherwise is off by 2 / 127 in one of D.
TEST_F(CudaAttention, WholeRowsAreTheReferences) {
  const auto reference = test::MustMake("reference", 1);
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Sequence sequence(*backend_, c, length_), wanted(*reference, c, length_);
    const auto all = sequence.Rows(0, length_);
    const int64_t cols = int64_t{c.heads} * c.head_dim;
    for (const int row : {0, 37, length_ - 1}) {
      const auto want = wanted.Rows(row, row + 1);
      for (int64_t i = 0; i < cols; ++i) {
        ASSERT_NEAR(all[row * cols + i], want[i], c.type == KvType::kQ8_0 ? 5e-3 : 1e-3) << row;
      }
    }
  }
}

}  // namespace
}  // namespace echelon
