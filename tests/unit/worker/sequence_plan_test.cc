// The plan of sequence parallelism: places of positions counted one by one, what is passed against
// the published rule, and the plans of all ranks together: every row has a partial of every part it
// sees, once, in the order of the parts, and every message has a sender that sends as much.

#include "worker/sequence_plan.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

#include "common/step_buffers.h"

namespace echelon {
namespace {

TEST(PageParts, PlacesAreCountedOneByOne) {
  for (const PageParts parts : {PageParts{1, 4}, PageParts{3, 4}, PageParts{4, 5}}) {
    std::vector<int64_t> counted(parts.parts, 0);
    for (int64_t end = 0; end < 100; ++end) {
      for (int c = 0; c < parts.parts; ++c) EXPECT_EQ(parts.Places(c, end), counted[c]) << end;
      ++counted[end / parts.page_tokens % parts.parts];
    }
  }
}

constexpr int kPagesPerRank = 1000;

SequenceSharing Sharing(int sp, int rank) {
  SequenceSharing sharing;
  sharing.parts = {sp, 4};
  sharing.rank = rank;
  sharing.pages_per_rank = kPagesPerRank;
  sharing.ring_pages = RingPages(sp, 4, 256, 4096);
  // 9 query heads and 3 KV heads of 64 in float32.
  sharing.page_bytes = 2 * 4 * 3 * 64 * 4;
  sharing.query_bytes = 9 * 64 * 4;
  sharing.partial_bytes = 9 * 66 * 4;
  return sharing;
}

struct Chunk {
  int position, rows;
};

BatchLayout Batch(const std::vector<Chunk>& chunks, int sp) {
  BatchLayout batch;
  batch.page_begin.push_back(0);
  std::vector<int32_t> used(sp, 0);
  for (size_t s = 0; s < chunks.size(); ++s) {
    const int begin = static_cast<int>(batch.ids.size());
    for (int i = 0; i < chunks[s].rows; ++i) {
      batch.ids.push_back(i);
      batch.positions.push_back(chunks[s].position + i);
      batch.sequences.push_back(static_cast<int32_t>(s));
    }
    const int pages = (chunks[s].position + chunks[s].rows + 3) / 4;
    for (int p = 0; p < pages; ++p) {
      const int rank = static_cast<int>(s + p) % sp;
      batch.pages.push_back(rank * kPagesPerRank + used[rank]++);
    }
    batch.page_begin.push_back(static_cast<int32_t>(batch.pages.size()));
    batch.steps.push_back({100 + s, begin, static_cast<int>(batch.ids.size())});
  }
  return batch;
}

// With counted sizes: queries and partials of a row are 2 * 9 / (2 * 3) = 3 times its keys and
// values (and 2 numbers a head more), so that queries move less below a share of new rows of 1/3.
TEST(SequencePlan, PassesWhatMovesLess) {
  const SequencePlan fresh(Sharing(2, 0), Batch({{0, 400}}, 2));
  EXPECT_EQ(fresh.PassingOf(0, 0), Passing::kKeys);
  const auto passing = [](int before, int rows, int window) {
    return SequencePlan(Sharing(2, 0), Batch({{before, rows}}, 2)).PassingOf(0, window);
  };
  EXPECT_EQ(passing(1200, 640, 0), Passing::kKeys) << "a share of 0.35";
  EXPECT_EQ(passing(1200, 560, 0), Passing::kQueries) << "a share of 0.32";
  EXPECT_EQ(passing(1200, 560, 100), Passing::kKeys) << "a window sees few old keys";
  EXPECT_EQ(passing(1200, 1, 0), Passing::kCopied) << "few decodes";
  EXPECT_EQ(SequencePlan(Sharing(2, 0), Batch(std::vector<Chunk>(9, {50, 1}), 2)).PassingOf(0, 0),
            Passing::kQueries)
      << "many decodes";
}

TEST(PageParts, PairsAreCountedOneByOne) {
  for (const int window : {0, 1, 7, 40}) {
    for (const int position : {0, 3, 30, 50}) {
      int64_t counted = 0;
      for (int rows = 0; rows < 60; ++rows) {
        EXPECT_EQ(PairsSeen(position, rows, window), counted) << position << " " << rows;
        counted += PositionsSeen(position + rows, window).size();
      }
    }
  }
}

// Keys travel behind attention from T = N * compute * kv_heads * element / (2 * heads * bandwidth)
// rows on, whatever the share of new rows; below, the exposed bytes decide.
TEST(SequencePlan, KeysArePassedWhereTheyHideBehindAttention) {
  constexpr int kRanks = 2;
  const auto passing = [&](int before, int rows, double bytes_per_pair) {
    SequenceSharing sharing = Sharing(kRanks, 0);
    sharing.bytes_per_pair = bytes_per_pair;
    return SequencePlan(sharing, Batch({{before, rows}}, kRanks)).PassingOf(0, 0);
  };
  // A hop's bytes for a place, 2 * kv_heads * head_dim * element, against rows / N pairs for it.
  constexpr int kPlaceBytes = 2 * 3 * 64 * 4, kThreshold = 100;
  constexpr double kBytesPerPair = double{kPlaceBytes} * kRanks / kThreshold;
  EXPECT_EQ(passing(4000, 96, 0.0), Passing::kQueries) << "a share of 0.02, nothing hidden";
  EXPECT_EQ(passing(4000, 112, kBytesPerPair), Passing::kKeys) << "all hidden";
  EXPECT_EQ(passing(4000, 48, kBytesPerPair), Passing::kQueries)
      << "half of the keys is waited for";
  EXPECT_EQ(passing(4000, 112, kBytesPerPair / 4), Passing::kQueries) << "a link of a quarter";
  EXPECT_EQ(passing(0, 400, kBytesPerPair), Passing::kKeys) << "a new prompt";
}

// Chunks of any lengths at any positions, whole and cut in two: buffers have a rank's rows.
TEST(SequencePlan, NoRankHasMoreRowsThanItsBuffers) {
  std::mt19937 random(5);
  const auto below = [&](int64_t n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 300; ++round) {
    const int sp = 2 + round % 3;
    std::vector<Chunk> chunks;
    for (int i = 1 + below(4); i > 0; --i) {
      chunks.push_back({below(40), 1 + below(60)});
    }
    const BatchLayout all = Batch(chunks, sp);
    const int64_t most = RankRowsMax({all.rows(), static_cast<int64_t>(chunks.size()), 4, sp});
    for (const int64_t cut : {int64_t{0}, int64_t{1} + below(all.rows())}) {
      for (int rank = 0; rank < sp; ++rank) {
        const auto rows = [&](int64_t begin, int64_t end) {
          if (begin == end) return int64_t{0};
          return SequencePlan(Sharing(sp, rank), CutBatch(all, begin, end)).OwnRows().rows();
        };
        EXPECT_LE(rows(0, cut) + rows(cut, all.rows()), most) << round;
      }
    }
  }
}

TEST(SequencePlan, TheRanksPlansFitTogether) {
  const std::vector<Chunk> few = {{0, 30}, {700, 100}, {60, 1}, {2400, 20}, {0, 2}};
  std::vector<Chunk> many = few;
  for (int i = 0; i < 9; ++i) many.push_back({i * 7, 1});
  for (const auto& chunks : {few, many}) {
    for (const int sp : {2, 3, 5}) {
      for (const int window : {0, 50}) {
        const BatchLayout batch = Batch(chunks, sp);
        std::vector<SequencePlan> ranks;
        std::vector<AttentionPlan> plans;
        for (int r = 0; r < sp; ++r) {
          ranks.emplace_back(Sharing(sp, r), batch);
          plans.push_back(ranks[r].Attention(window));
        }
        int64_t rows = 0, copied = static_cast<int64_t>(plans[0].copied_rows.size());
        for (int r = 0; r < sp; ++r) {
          rows += ranks[r].OwnRows().rows() - copied;
          EXPECT_EQ(plans[r].query_counts, plans[0].query_counts);
          EXPECT_EQ(plans[r].query_counts[r], static_cast<int>(plans[r].query_rows.size()));
          const int total =
              std::accumulate(plans[r].query_counts.begin(), plans[r].query_counts.end(), 0);
          EXPECT_EQ(static_cast<int>(plans[r].foreign.begin.size()),
                    total - plans[r].query_counts[r]);
          ASSERT_EQ(plans[r].passes.size(), plans[0].passes.size());
          for (size_t p = 0; p < plans[r].passes.size(); ++p) {
            const RingPass& pass = plans[r].passes[p];
            EXPECT_EQ(pass.page_count, plans[0].passes[p].page_count);
            EXPECT_EQ(static_cast<int>(pass.own_pages.size()), pass.page_count[r]);
            EXPECT_LE(pass.page_count[r], Sharing(sp, r).ring_pages);
          }
          // Every partial row is merged once at most; a row has as many as parts it sees.
          const auto& parts = plans[r].merge_parts;
          EXPECT_EQ(std::set<int32_t>(parts.begin(), parts.end()).size(), parts.size());
          for (int64_t i = 0; i < ranks[r].OwnRows().rows(); ++i) {
            const int32_t position = ranks[r].OwnRows().positions[i];
            std::set<int32_t> seen;
            for (int32_t p = window > 0 ? std::max(0, position - window + 1) : 0; p <= position;
                 ++p) {
              seen.insert(p / 4 % sp);
            }
            EXPECT_EQ(plans[r].merge_begin[i + 1] - plans[r].merge_begin[i],
                      static_cast<int32_t>(seen.size()));
          }
        }
        EXPECT_EQ(rows + copied, batch.rows());
      }
    }
  }
}

}  // namespace
}  // namespace echelon
