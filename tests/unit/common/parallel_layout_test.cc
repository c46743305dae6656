#include "common/parallel_layout.h"

#include <gtest/gtest.h>

#include <numeric>

namespace echelon {
namespace {

// The shape of SmolLM2-135M: heads that divide by nothing convenient.
ModelConfig Smol() {
  ModelConfig m;
  m.d_model = 576;
  m.n_heads = 9;
  m.n_kv_heads = 3;
  m.head_dim = 64;
  m.d_ff = 1536;
  m.vocab_size = 49152;
  m.context_max = 8192;
  m.attention_scale = 0.125f;
  m.layers.resize(30);
  return m;
}

TEST(SplitEvenly, CoversWithoutGapsOrOverlap) {
  for (const int64_t total : {0, 1, 7, 64, 1000}) {
    for (int parts = 1; parts <= 9; ++parts) {
      for (const int64_t unit : {1, 3, 32}) {
        int64_t at = 0;
        for (int i = 0; i < parts; ++i) {
          const Range r = SplitEvenly(total, parts, i, unit);
          EXPECT_EQ(r.begin, at);
          EXPECT_LE(r.size(), (total / unit / parts + 1) * unit);
          at = r.end;
        }
        EXPECT_EQ(at, total);
      }
    }
  }
}

TEST(ParallelLayout, RankAndPositionAreInverse) {
  const ParallelLayout layout{.tp = 3, .pp = 2, .sp = 2};
  for (int rank = 0; rank < layout.world(); ++rank) {
    EXPECT_EQ(layout.RankOf(layout.PositionOf(rank)), rank);
  }
  EXPECT_EQ(layout.PositionOf(1).tp, 1);  // tp is fastest
}

TEST(ShardOf, CoversEveryHeadOnceAndItsKvHead) {
  const ModelConfig m = Smol();
  const int group = m.n_heads / m.n_kv_heads;
  for (int tp = 1; tp <= 9; ++tp) {
    int64_t head = 0, ff = 0, vocab = 0;
    for (int i = 0; i < tp; ++i) {
      const TensorShard s = ShardOf(m, {.tp = tp}, i);
      EXPECT_EQ(s.heads.begin, head) << tp << " " << i;
      EXPECT_GT(s.heads.size(), 0);
      for (int64_t h = s.heads.begin; h < s.heads.end; ++h) {
        EXPECT_LE(s.kv_heads.begin, h / group);
        EXPECT_LT(h / group, s.kv_heads.end);
      }
      EXPECT_EQ(s.ff.begin, ff);
      EXPECT_EQ(s.vocab.begin, vocab);
      EXPECT_EQ(s.vocab.begin % kVocabUnit, 0);
      head = s.heads.end;
      ff = s.ff.end;
      vocab = s.vocab.end;
    }
    EXPECT_EQ(head, m.n_heads);
    EXPECT_EQ(ff, m.d_ff);
    EXPECT_EQ(vocab, m.vocab_size);
  }
  // KV heads are split, not replicated, while there are enough of them.
  EXPECT_EQ(ShardOf(m, {.tp = 2}, 0).kv_heads, (Range{0, 2}));
  EXPECT_EQ(ShardOf(m, {.tp = 2}, 1).kv_heads, (Range{2, 3}));
  EXPECT_EQ(ShardOf(m, {.tp = 4}, 1).heads, (Range{3, 5}));
  EXPECT_EQ(ShardOf(m, {.tp = 4}, 1).kv_heads, (Range{1, 2}));
}

TEST(ShardOf, SharesAreAsTheSpeedsOfTheRanks) {
  ModelConfig m = Smol();
  const ParallelLayout uneven{.tp = 3, .shard_shares = {2, 1, 1}};
  EXPECT_EQ(ShardOf(m, uneven, 0).ff, (Range{0, 768}));
  EXPECT_EQ(ShardOf(m, uneven, 1).ff, (Range{768, 1152}));
  EXPECT_EQ(ShardOf(m, uneven, 2).ff, (Range{1152, 1536}));
  EXPECT_EQ(ShardOf(m, uneven, 0).kv_heads.size(), 1) << "of three, each has one";
  EXPECT_EQ(ShardOf(m, uneven, 0).vocab.begin % kVocabUnit, 0);
  const ParallelLayout steep{.tp = 4, .shard_shares = {1000, 1, 1, 1}};
  int64_t head = 0;
  for (int i = 0; i < 4; ++i) {
    const TensorShard s = ShardOf(m, steep, i);
    EXPECT_EQ(s.heads.begin, head);
    EXPECT_GT(s.heads.size(), 0) << i;
    EXPECT_GT(s.ff.size(), 0) << i;
    head = s.heads.end;
  }
  EXPECT_EQ(head, m.n_heads);
  EXPECT_EQ(ShardOf(m, steep, 0).heads.size(), 6);
  // Fewer units than ranks: evenly, some have none.
  EXPECT_EQ(SplitByShares(2, std::vector<int>{5, 1, 1}, 2), SplitEvenly(2, 3, 2));
  EXPECT_FALSE((ParallelLayout{.tp = 2, .shard_shares = {1}}).Validate(m).ok());
  EXPECT_FALSE((ParallelLayout{.tp = 2, .shard_shares = {1, 0}}).Validate(m).ok());
  EXPECT_TRUE((ParallelLayout{.tp = 2, .shard_shares = {3, 1}}).Validate(m).ok());
}

TEST(LayersOfStage, CoversAllAndSparesTheStageWithTheHead) {
  const ModelConfig m = Smol();
  for (int pp = 1; pp <= 30; ++pp) {
    const ParallelLayout layout{.pp = pp};
    int64_t at = 0;
    for (int s = 0; s < pp; ++s) {
      const Range r = LayersOfStage(m, layout, s);
      EXPECT_EQ(r.begin, at);
      EXPECT_GE(r.size(), 1);
      at = r.end;
    }
    EXPECT_EQ(at, 30);
    if (pp > 1) {
      EXPECT_LE(LayersOfStage(m, layout, pp - 1).size(), LayersOfStage(m, layout, 0).size());
    }
  }
  // The head is worth 8 layers (28.3 M of 3.54 M weights): 19 + (11 and the head).
  EXPECT_EQ(LayersOfStage(m, {.pp = 2}, 0).size(), 19);
  ModelConfig heavy = m;
  heavy.head_cost = 1.7;  // a head of 8-bit weights behind 4-bit layers: worth 13.6 of them
  EXPECT_EQ(LayersOfStage(heavy, {.pp = 2}, 0).size(), 22);
  EXPECT_EQ(LayersOfStage(heavy, {.pp = 4}, 3).size(), 1);
  EXPECT_EQ(LayersOfStage(heavy, {.pp = 4}, 0).size(), 10);
  EXPECT_EQ(LayersOfStage(m, {.pp = 2, .layers_per_stage = {10, 20}}, 1), (Range{10, 30}));
}

TEST(Validate, NamesTheLimit) {
  const ModelConfig m = Smol();
  EXPECT_TRUE((ParallelLayout{.tp = 4, .pp = 3}).Validate(m).ok());
  const auto too_wide = ParallelLayout{.tp = 10}.Validate(m);
  ASSERT_FALSE(too_wide.ok());
  EXPECT_NE(too_wide.error().message.find("1 to 9"), std::string::npos);
  EXPECT_EQ(too_wide.error().field, "tp");
  EXPECT_FALSE((ParallelLayout{.pp = 31}).Validate(m).ok());
  EXPECT_FALSE((ParallelLayout{.sp = 0}).Validate(m).ok());
  EXPECT_TRUE((ParallelLayout{.sp = 5}).Validate(m).ok());
  EXPECT_FALSE((ParallelLayout{.tp = 0}).Validate(m).ok());
  EXPECT_FALSE((ParallelLayout{.pp = 2, .layers_per_stage = {10, 19}}).Validate(m).ok());
  EXPECT_FALSE((ParallelLayout{.pp = 2, .layers_per_stage = {0, 30}}).Validate(m).ok());
}

TEST(SpecOf, CutsOutputsByRowsAndInputsByColumns) {
  const ModelConfig m = Smol();
  const TensorShard s = ShardOf(m, {.tp = 2}, 1);
  const ShardSpec q = SpecOf(m, s, TensorRole::kQuery);
  EXPECT_TRUE(q.by_rows);
  EXPECT_EQ(q.range, (Range{6 * 64, 9 * 64}));
  const ShardSpec out = SpecOf(m, s, TensorRole::kAttentionOut);
  EXPECT_TRUE(out.by_columns);
  EXPECT_EQ(out.range, q.range);
  EXPECT_EQ(SpecOf(m, s, TensorRole::kDown).range, s.ff);
  EXPECT_FALSE(SpecOf(m, s, TensorRole::kMlpNorm).by_rows);
}

}  // namespace
}  // namespace echelon
