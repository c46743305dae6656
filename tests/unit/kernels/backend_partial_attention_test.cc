// Attention over parts of a sequence's pages and the merge of the parts: against the reference over
// all of them at once; and that neither how a list is cut into calls nor company nor threads nor
// the instruction set change a bit.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "tests/unit/kernels/backend_kit.h"

namespace echelon {
namespace {

using test::FloatBuffer;
using test::RandomFloats;

struct Case {
  std::string name;
  int head_dim, heads, kv_heads;
  int page_tokens, window, length, parts;
  KvType type = KvType::kF32;
};
const Case kCases[] = {
    {"two_parts", 64, 9, 3, 16, 0, 1200, 2, KvType::kF16},
    {"three_parts_window", 32, 4, 2, 16, 300, 1100, 3},
    {"window_of_less_than_a_round", 16, 2, 1, 16, 20, 200, 4},
    {"odd_pages", 22, 3, 1, 5, 0, 700, 2},
    {"more_parts_than_pages", 16, 2, 2, 8, 0, 20, 5},
    {"q8_two_parts_window", 64, 6, 2, 16, 300, 1100, 2, KvType::kQ8_0},
    {"q8_odd_pages", 22, 3, 1, 5, 0, 700, 2, KvType::kQ8_0},
};

// One sequence whose keys and values lie in shuffled pages of a cache.
class Kept {
 public:
  Kept(Backend& backend, const Case& c)
      : backend_(backend),
        c_(c),
        kept_(backend,
              {.layers = 2,
               .page_tokens = c.page_tokens,
               .kv_heads = c.kv_heads,
               .head_dim = c.head_dim,
               .type = c.type},
              1, c.heads, c.length, Shuffled((c.length + c.page_tokens - 1) / c.page_tokens)) {}

  std::vector<float> Whole(int from, int to) {
    FloatBuffer out(backend_, to - from, int64_t{c_.heads} * c_.head_dim);
    AttentionArgs args = kept_.Args();
    args.window = c_.window;
    args.q = args.q.Rows(from, to);
    args.out = out.tensor();
    args.rows = {std::span(kept_.positions).subspan(from, to - from),
                 std::span(kept_.sequences).subspan(from, to - from), kept_.page_begin,
                 kept_.pages};
    backend_.Attention(args);
    backend_.Synchronize();
    return out.Read();
  }

  // The first position that row t sees of part `part`, and one behind the last, as places of the
  // part's pages laid end to end: counted one by one.
  std::pair<int32_t, int32_t> Seen(int32_t t, int part) const {
    int32_t begin = 0, end = 0;
    for (int32_t p = 0; p <= t; ++p) {
      if (p / c_.page_tokens % c_.parts != part) continue;
      ++end;
      if (c_.window > 0 && p <= t - c_.window) ++begin;
    }
    return {begin, end};
  }

  // Rows [from, to) over every part, in calls of at most `pages_once` pages of a part; merged.
  std::vector<float> InParts(int from, int to, int pages_once) {
    const int64_t count = to - from, partial_cols = int64_t{c_.heads} * (c_.head_dim + 2);
    FloatBuffer partials(backend_, count * c_.parts, partial_cols, partial_cols + 1, 1);
    FloatBuffer out(backend_, count, int64_t{c_.heads} * c_.head_dim);
    std::vector<std::vector<int32_t>> parts_of(count);
    for (int part = 0; part < c_.parts; ++part) {
      std::vector<int32_t> list;
      for (size_t p = part; p < kept_.pages.size(); p += c_.parts) list.push_back(kept_.pages[p]);
      std::vector<int32_t> begin(count), end(count);
      for (int64_t i = 0; i < count; ++i) {
        std::tie(begin[i], end[i]) = Seen(from + static_cast<int32_t>(i), part);
        if (begin[i] < end[i]) parts_of[i].push_back(static_cast<int32_t>(part * count + i));
      }
      for (size_t at = 0; at < list.size(); at += pages_once) {
        const size_t once = std::min(list.size() - at, static_cast<size_t>(pages_once));
        AttendPages(std::span(list).subspan(at, once), from, begin, end,
                    partials.tensor().Rows(part * count, (part + 1) * count));
        for (int64_t i = 0; i < count; ++i) {
          begin[i] -= pages_once * c_.page_tokens;
          end[i] -= pages_once * c_.page_tokens;
        }
      }
    }
    std::vector<int32_t> merge_begin = {0}, merge;
    for (const auto& rows : parts_of) {
      merge.insert(merge.end(), rows.begin(), rows.end());
      merge_begin.push_back(static_cast<int32_t>(merge.size()));
    }
    backend_.MergeAttention(
        {partials.tensor(), merge_begin, merge, c_.heads, c_.head_dim, out.tensor()});
    backend_.Synchronize();
    EXPECT_TRUE(partials.GuardsIntact());
    return out.Read();
  }

 private:
  void AttendPages(std::span<const int32_t> pages, int from, std::span<const int32_t> begin,
                   std::vector<int32_t> end, Tensor partials) {
    for (int32_t& e : end) e = std::min<int32_t>(e, pages.size() * c_.page_tokens);
    const std::vector<int32_t> page_begin = {0, static_cast<int32_t>(pages.size())};
    const std::vector<int32_t> sequences(begin.size(), 0);
    AttentionArgs args = kept_.Args();
    args.window = c_.window;  // not read: begin and end decide
    args.q = args.q.Rows(from, from + partials.rows);
    args.rows = {{}, sequences, page_begin, pages};
    args.begin = begin;
    args.end = end;
    args.partials = partials;
    backend_.Attention(args);
    backend_.Synchronize();
  }

  static std::vector<int32_t> Shuffled(int count) {
    std::vector<int32_t> pages(count);
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), std::mt19937_64(7));
    return pages;
  }

  Backend& backend_;
  const Case& c_;
  const test::CachedSequence kept_;
};

// Pages that are a whole number of splits.
int SplitPages(const Case& c) { return std::lcm(kAttentionSplit, c.page_tokens) / c.page_tokens; }

class BackendPartialAttention : public test::BackendTest {};

// Both sides round each of at most 1,200 terms once or twice: 2 * 1200 * 2^-24 of values to 2, and
// the scores' own error as in BackendAttention.
TEST_P(BackendPartialAttention, PartsMergedAreTheWhole) {
  auto reference = test::MustMake("reference", 1);
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Kept wanted(*reference, c), kept(*backend_, c);
    auto want = wanted.Whole(0, 20), got = kept.InParts(0, 20, 1 << 20);
    for (const float v : wanted.Whole(c.length - 20, c.length)) want.push_back(v);
    for (const float v : kept.InParts(c.length - 20, c.length, 1 << 20)) got.push_back(v);
    ASSERT_EQ(got.size(), want.size());
    double worst = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_FALSE(std::isnan(got[i])) << i;
      worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - want[i]));
    }
    // Codes of queries and weights, as in BackendAttention.
    EXPECT_LE(worst, c.type == KvType::kQ8_0 && !exact() ? 2e-2 : 6e-4);
  }
}

// As many parts as a long context has, more than a kernel takes at once. Each addition rounds
// twice: 2 * 600 * 2^-24 of values to 1.
TEST_P(BackendPartialAttention, HundredsOfParts) {
  constexpr int kHeads = 2, kDim = 48, kFloats = kHeads * (kDim + 2), kParts = 600;
  std::vector<float> rows = RandomFloats(kParts * kFloats, 31);
  for (int at = kDim; at < kParts * kFloats; at += kDim + 2) {
    rows[at] *= 3.0f;
    rows[at + 1] = 2.0f + rows[at + 1];
  }
  std::vector<int32_t> parts(kParts);
  std::iota(parts.begin(), parts.end(), 0);
  std::shuffle(parts.begin(), parts.end(), std::mt19937(7));
  const std::vector<int32_t> begin = {0, 1, 17, 90, kParts};
  const auto count = static_cast<int64_t>(begin.size()) - 1;
  const FloatBuffer partials(*backend_, kParts, kFloats, rows, kFloats + 3, 1);
  const FloatBuffer out(*backend_, count, kHeads * kDim);
  backend_->MergeAttention({partials.tensor(), begin, parts, kHeads, kDim, out.tensor()});
  backend_->Synchronize();
  const auto got = out.Read();
  for (int64_t t = 0; t < count; ++t) {
    for (int i = 0; i < kHeads * kDim; ++i) {
      double sum = 0.0, total = 0.0;
      for (int32_t at = begin[t]; at < begin[t + 1]; ++at) {
        const float* head = rows.data() + parts[at] * kFloats + i / kDim * (kDim + 2);
        sum += std::exp(static_cast<double>(head[kDim])) * head[i % kDim];
        total += std::exp(static_cast<double>(head[kDim])) * head[kDim + 1];
      }
      ASSERT_NEAR(got[t * kHeads * kDim + i], sum / total, 1e-4) << t << " " << i;
    }
  }
}

TEST_P(BackendPartialAttention, CallsAndCompanyKeepEveryBit) {
  auto single = test::MustMake(GetParam().name, 1, GetParam().isa);
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Kept kept(*backend_, c);
    const int from = std::max(0, c.length - 40);
    const auto whole = kept.InParts(from, c.length, 1 << 20);
    EXPECT_TRUE(test::SameBits(whole, kept.InParts(from, c.length, SplitPages(c)))) << "calls";
    EXPECT_TRUE(test::SameBits(whole, Kept(*single, c).InParts(from, c.length, 2 * SplitPages(c))));
    const size_t row = whole.size() / (c.length - from);
    const auto last = kept.InParts(c.length - 1, c.length, SplitPages(c));
    EXPECT_TRUE(test::SameBits(last, std::span(whole).last(row))) << "company";
  }
}

TEST_P(BackendPartialAttention, InstructionSetsAgree) {
  if (GetParam().isa == "auto" || GetParam().isa == "avx2") GTEST_SKIP() << "beside AVX2 itself";
  auto narrow = test::MustMake("cpu", 1, "avx2");
  for (const Case& c : kCases) {
    const int from = std::max(0, c.length - 40);
    EXPECT_TRUE(test::SameBits(Kept(*backend_, c).InParts(from, c.length, 1 << 20),
                               Kept(*narrow, c).InParts(from, c.length, 1 << 20)))
        << c.name;
  }
}

// Pages that another rank keeps are not stored; the copy of a page reads as the page itself.
void ExpectPagesTravel(Backend& backend, KvType type) {
  const KvShape shape = {
      .layers = 2, .pages = 3, .page_tokens = 4, .kv_heads = 1, .head_dim = 16, .type = type};
  KvShape staging = shape;
  staging.layers = 1;
  staging.pages = 2;
  auto cache = std::move(backend.AllocateKv(shape)).value();
  auto copy = std::move(backend.AllocateKv(staging)).value();
  const auto values = RandomFloats(8 * 48, 3);
  FloatBuffer qkv(backend, 8, 48, values);
  const std::vector<int32_t> positions = {0, 1, 2, 3, 4, 5, 6, 7}, sequences(8, 0);
  const std::vector<int32_t> page_begin = {0, 2}, pages = {-1, 2};
  const std::vector<double> frequency(8, 0.0);
  const auto first = cache->PageData(1, 0, 1), second = cache->PageData(1, 1, 1);
  const std::vector<std::byte> sevens(first.size(), std::byte{7});
  const auto bytes_of = [&](std::span<std::byte> page) {
    std::vector<std::byte> bytes(page.size());
    backend.Download(page.data(), bytes.data(), bytes.size());
    backend.Synchronize();
    return bytes;
  };
  backend.Upload(sevens.data(), first.data(), first.size());
  backend.Upload(sevens.data(), second.data(), second.size());
  backend.RopeAppend({.qkv = qkv.tensor(),
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 16,
                      .rope = {frequency, false},
                      .rows = {positions, sequences, page_begin, pages},
                      .cache = cache.get(),
                      .layer = 1});
  backend.Synchronize();
  EXPECT_EQ(bytes_of(first), sevens);
  EXPECT_EQ(bytes_of(second), sevens);
  const auto from = cache->PageData(1, 2, 1), to = copy->PageData(0, 1, 1);
  ASSERT_EQ(from.size(), to.size());
  const std::vector<std::byte> travelling = bytes_of(from);
  backend.Upload(travelling.data(), to.data(), to.size());
  backend.Synchronize();

  const auto attend = [&](const KvCache& kv, int layer, int32_t page) {
    const std::vector<int32_t> list = {page}, list_begin = {0, 1}, row = {0}, begin = {0},
                               end = {4};
    FloatBuffer partial(backend, 1, 18);
    AttentionArgs args;
    args.q = qkv.tensor().Cols(0, 16).Rows(7, 8);
    args.heads = 1;
    args.head_dim = 16;
    args.scale = 0.25f;
    args.rows = {{}, row, list_begin, list};
    args.begin = begin;
    args.end = end;
    args.partials = partial.tensor();
    args.cache = &kv;
    args.layer = layer;
    backend.Attention(args);
    backend.Synchronize();
    return partial.Read();
  };
  EXPECT_TRUE(test::SameBits(attend(*cache, 1, 2), attend(*copy, 0, 1)));
}

TEST_P(BackendPartialAttention, PagesTravelAsBytes) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
    SCOPED_TRACE(static_cast<int>(type));
    ExpectPagesTravel(*backend_, type);
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendPartialAttention, testing::ValuesIn(test::BackendCases()),
                         test::CaseName);

}  // namespace
}  // namespace echelon
