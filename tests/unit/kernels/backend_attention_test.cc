// RopeAppend and Attention of every backend against the reference, over head counts, head sizes,
// page sizes, windows and cache types; and that neither chunk nor company nor threads change a bit.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "tests/unit/kernels/backend_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;

struct Case {
  std::string name;
  int head_dim, heads, kv_heads, group, head_begin, kv_begin;
  int page_tokens, window;
  KvType type;
  bool interleaved, norms, rotate;
  std::vector<int> lengths;  // tokens of each sequence
};

const Case kCases[] = {
    {"smollm2", 64, 9, 3, 3, 0, 0, 16, 0, KvType::kF16, true, false, false, {40, 3, 17}},
    {"smollm2_f32_rope", 64, 9, 3, 3, 0, 0, 16, 0, KvType::kF32, true, false, true, {33, 5}},
    {"long", 64, 3, 1, 3, 0, 0, 16, 0, KvType::kF16, true, false, false, {600, 9}},
    {"long_window", 64, 3, 1, 3, 0, 0, 32, 300, KvType::kF16, true, false, false, {800}},
    {"gemma", 256, 4, 1, 4, 0, 0, 16, 20, KvType::kF16, false, true, true, {50, 7}},
    {"head_of_80", 80, 5, 1, 5, 0, 0, 32, 0, KvType::kF16, false, false, true, {45, 20}},
    {"head_of_96", 96, 2, 2, 1, 0, 0, 16, 0, KvType::kF16, true, false, false, {33}},
    {"head_of_128", 128, 4, 1, 4, 0, 0, 16, 33, KvType::kF16, true, true, false, {50}},
    {"uneven_shard", 64, 5, 3, 3, 2, 0, 16, 0, KvType::kF32, true, false, true, {19, 30}},
    {"second_shard", 64, 4, 2, 3, 5, 1, 16, 0, KvType::kF16, true, false, false, {21}},
    {"odd_pages", 32, 2, 2, 1, 0, 0, 5, 0, KvType::kF16, false, false, false, {44, 13}},
    {"large_group", 16, 14, 2, 7, 0, 0, 8, 11, KvType::kF32, false, true, true, {26}},
    {"tiny_head", 2, 3, 1, 3, 0, 0, 16, 0, KvType::kF32, false, false, true, {20}},
    {"head_of_22", 22, 2, 1, 2, 0, 0, 48, 0, KvType::kF16, true, false, false, {70}},
    {"q8_smollm2", 64, 9, 3, 3, 0, 0, 16, 0, KvType::kQ8_0, true, false, false, {40, 3, 17}},
    {"q8_long", 64, 3, 1, 3, 0, 0, 16, 0, KvType::kQ8_0, true, false, false, {600, 9}},
    {"q8_long_window", 64, 3, 1, 3, 0, 0, 32, 300, KvType::kQ8_0, true, false, false, {800}},
    {"q8_gemma", 256, 4, 1, 4, 0, 0, 16, 20, KvType::kQ8_0, false, true, true, {50, 7}},
    {"q8_head_of_80", 80, 5, 1, 5, 0, 0, 32, 0, KvType::kQ8_0, false, false, true, {45, 20}},
    {"q8_head_of_96", 96, 2, 2, 1, 0, 0, 16, 0, KvType::kQ8_0, true, false, false, {33}},
    {"q8_head_of_128", 128, 8, 2, 4, 0, 0, 16, 33, KvType::kQ8_0, true, true, false, {70}},
    {"q8_odd_pages", 32, 2, 2, 1, 0, 0, 5, 0, KvType::kQ8_0, false, false, false, {44, 13}},
    {"q8_head_of_22", 22, 2, 1, 2, 0, 0, 24, 0, KvType::kQ8_0, true, false, false, {70}},
    {"q8_tiny_head", 2, 3, 1, 3, 0, 0, 16, 0, KvType::kQ8_0, false, false, true, {20}},
    {"q8_second_shard", 64, 4, 2, 3, 5, 1, 16, 0, KvType::kQ8_0, true, false, false, {21}},
};

// The rows of a case, round robin over its sequences; `index` is a row's place in the answer, which
// is ordered by sequence and position, and names its random values.
struct Rows {
  std::vector<std::pair<int, int>> sequence_position;
  std::vector<int64_t> index;
};

Rows RowsOf(const Case& c) {
  Rows rows;
  const int longest = *std::max_element(c.lengths.begin(), c.lengths.end());
  for (int p = 0; p < longest; ++p) {
    int64_t before = 0;
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      if (p < c.lengths[s]) {
        rows.sequence_position.push_back({static_cast<int>(s), p});
        rows.index.push_back(before + p);
      }
      before += c.lengths[s];
    }
  }
  return rows;
}

// One run of a case: rows go through RopeAppend and Attention in chunks of `chunk`.
std::vector<float> RunCase(Backend& backend, const Case& c, int chunk, uint64_t page_seed) {
  const int cols = (c.heads + 2 * c.kv_heads) * c.head_dim, out_cols = c.heads * c.head_dim;
  const int longest = *std::max_element(c.lengths.begin(), c.lengths.end());
  const auto [rows, index] = RowsOf(c);
  const auto qkv = RandomFloats(static_cast<int64_t>(rows.size()) * cols, 5, 2.0f);
  const auto norm = RandomFloats(2 * c.head_dim, 6);
  FloatBuffer norms(backend, 2, c.head_dim, norm);
  std::vector<double> frequency(c.head_dim / 2, 0.0);
  for (int i = 0; c.rotate && i < c.head_dim / 2; ++i) frequency[i] = std::pow(1e-4, i / 16.0);
  const int pages =
      (longest + c.page_tokens - 1) / c.page_tokens * static_cast<int>(c.lengths.size());
  auto cache = backend.AllocateKv({.layers = 2,
                                   .pages = pages,
                                   .page_tokens = c.page_tokens,
                                   .kv_heads = c.kv_heads,
                                   .head_dim = c.head_dim,
                                   .type = c.type});
  CHECK(cache.ok());

  std::vector<float> outputs(rows.size() * out_cols);
  for (size_t begin = 0; begin < rows.size(); begin += chunk) {
    const size_t end = std::min(rows.size(), begin + chunk);
    const auto count = static_cast<int64_t>(end - begin);
    const test::TestBatch batch({rows.begin() + begin, rows.begin() + end},
                                static_cast<int>(c.lengths.size()), longest, c.page_tokens,
                                page_seed);
    std::vector<float> values;
    for (size_t i = begin; i < end; ++i) {
      values.insert(values.end(), qkv.begin() + index[i] * cols,
                    qkv.begin() + (index[i] + 1) * cols);
    }
    FloatBuffer in(backend, count, cols, values, cols + 3, 1);
    FloatBuffer out(backend, count, out_cols, out_cols + 2, 1);
    backend.RopeAppend({.qkv = in.tensor(),
                        .heads = c.heads,
                        .kv_heads = c.kv_heads,
                        .head_dim = c.head_dim,
                        .query_norm = c.norms ? norms.data() : nullptr,
                        .key_norm = c.norms ? norms.data() + c.head_dim : nullptr,
                        .norm_eps = 1e-6f,
                        .rope = {frequency, c.interleaved},
                        .rows = batch.view(),
                        .cache = cache->get(),
                        .layer = 1});
    backend.Attention({.q = in.tensor().Cols(0, out_cols),
                       .out = out.tensor(),
                       .heads = c.heads,
                       .head_dim = c.head_dim,
                       .head_begin = c.head_begin,
                       .group = c.group,
                       .kv_begin = c.kv_begin,
                       .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                       .window = c.window,
                       .rows = batch.view(),
                       .cache = cache->get(),
                       .layer = 1});
    backend.Synchronize();
    EXPECT_TRUE(out.GuardsIntact());
    const auto got = out.Read();
    for (size_t i = begin; i < end; ++i) {
      std::copy_n(got.begin() + (i - begin) * out_cols, out_cols,
                  outputs.begin() + index[i] * out_cols);
    }
  }
  return outputs;
}

class BackendAttention : public test::BackendTest {};

// A score is a float sum of D products of at most 4 (values lie in [-2, 2]; normed ones are of the
// same size), times 1 / sqrt(D): off by (D / 2 + 4) 2^-24 of sqrt(D) * 4 at the very most. A weight
// is off by that relatively, an output (values to 2) by twice it times 2, and by the roundings of
// the up to 256 additions of a split. Rotated keys carry two more roundings of their own.
double Tolerance(const Case& c) {
  const double score = (c.head_dim / 2.0 + 4 + (c.rotate ? 4 : 0) + (c.norms ? 24 : 0)) * 0x1p-24 *
                       std::sqrt(static_cast<double>(c.head_dim)) * 4;
  double tolerance = 2 * (2 * score + (256 + 16) * 0x1p-24);
  // Queries and weights as codes, off by 1 / 32512 of the largest: D of the former in a score, 256
  // of the latter in a split's sum of values to 2. A rotated or normed key may differ in one code,
  // by 2 / 127, in a few places.
  if (c.type == KvType::kQ8_0) {
    const double root = std::sqrt(static_cast<double>(c.head_dim));
    tolerance += 2 * 2 * (root * 4 / 32512 + 2 * 2.0 * 2 / 127 / root) + 256 * 2.0 / 32512;
  }
  // A key that is not the same float may round to the neighbouring float16: D / 16 of them do at
  // most (in 2^-13 of the range of a unit), each by 2^-10 of 4 in the score.
  if (c.type == KvType::kF16 && (c.rotate || c.norms)) {
    tolerance += 4 * 4 * 0x1p-10 / std::sqrt(static_cast<double>(c.head_dim));
  }
  return tolerance;
}

// What the reference makes of a case, computed once for all backends.
const std::vector<float>& Wanted(const Case& c) {
  static std::map<std::string, std::vector<float>> wanted;
  const auto [at, inserted] = wanted.try_emplace(c.name);
  if (inserted) at->second = RunCase(*test::MustMake("reference", 1), c, 1000000, 3);
  return at->second;
}

TEST_P(BackendAttention, AgreesWithTheReference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const auto got = RunCase(*backend_, c, 1000000, 3);
    const std::vector<float>& want = Wanted(c);
    ASSERT_EQ(got.size(), want.size());
    double worst = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - want[i]));
      ASSERT_FALSE(std::isnan(got[i]));
    }
    EXPECT_LE(worst, exact() ? 0.0 : Tolerance(c));
  }
}

// Chunks, the pages' places, and threads: the same bits.
TEST_P(BackendAttention, RowsDependOnNothingElse) {
  auto single = test::MustMake(GetParam().name, 1, GetParam().isa);
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    if (exact() && c.lengths[0] > 100) continue;  // the reference needs no second look at these
    const auto all = RunCase(*backend_, c, 1000000, 3);
    EXPECT_TRUE(test::SameBits(all, RunCase(*single, c, 1000000, 4)));
    for (const int chunk : {7, 64}) {
      EXPECT_TRUE(test::SameBits(all, RunCase(*backend_, c, chunk, 3))) << chunk;
    }
  }
}

// Decode of one long sequence beside short ones: splits go to different threads.
TEST_P(BackendAttention, RaggedDecode) {
  if (exact()) GTEST_SKIP() << "the reference has no splits";
  const Case c = {"ragged", 16, 2, 1, 2, 0, 0, 16, 0, KvType::kF16, true, false, false, {1500, 4}};
  const auto all = RunCase(*backend_, c, 1000000, 3);
  EXPECT_TRUE(test::SameBits(all, RunCase(*backend_, c, 1, 3)));
}

TEST_P(BackendAttention, InstructionSetsAgree) {
  if (GetParam().isa == "auto" || GetParam().isa == "avx2") GTEST_SKIP() << "beside AVX2 itself";
  auto narrow = test::MustMake("cpu", 1, "avx2");
  for (const Case& c : kCases) {
    EXPECT_TRUE(test::SameBits(RunCase(*backend_, c, 64, 3), RunCase(*narrow, c, 64, 3))) << c.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendAttention, testing::ValuesIn(test::BackendCases()),
                         test::CaseName);

}  // namespace
}  // namespace echelon
