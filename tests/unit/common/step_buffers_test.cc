#include "common/step_buffers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/planner/memory.h"
#include "common/planner/presets.h"

namespace echelon {
namespace {

// Of `rows` rows that follow each other, how many lie on one of `sp` ranks at most.
int64_t MostOfSequence(int64_t rows, int64_t page_tokens, int64_t sp) {
  int64_t most = 0;
  for (int64_t begin = 0; begin < page_tokens * sp; ++begin) {
    int64_t here = 0;
    for (int64_t p = begin; p < begin + rows; ++p) here += p / page_tokens % sp == 0 ? 1 : 0;
    most = std::max(most, here);
  }
  return most;
}

TEST(RankRowsMax, IsTheMostThatAnyStepGivesOneRank) {
  constexpr int64_t kRows = 60, kPage = 4;
  for (const int sp : {2, 3, 5}) {
    // [rows]: the most rows of a rank, with so many sequences.
    std::vector<int64_t> most(kRows + 1, 0);
    for (int64_t sequences = 1; sequences <= 4; ++sequences) {
      std::vector<int64_t> more = most;
      for (int64_t all = 1; all <= kRows; ++all) {
        for (int64_t rows = 1; rows <= all; ++rows) {
          more[all] = std::max(more[all], most[all - rows] + MostOfSequence(rows, kPage, sp));
        }
      }
      most = more;
      for (int64_t all = 1; all <= kRows; ++all) {
        const int64_t cut = all > sequences * kPage ? 1 : 0;  // the row at a cut
        EXPECT_EQ(RankRowsMax({all, sequences, kPage, sp}), std::min(all, most[all] + cut))
            << all << " rows of " << sequences << " sequences, sp = " << sp;
      }
    }
  }
  EXPECT_EQ(RankRowsMax({512, 64, 16, 4}), 512);
  EXPECT_EQ(RankRowsMax({8192, 64, 16, 4}), 2817);
  EXPECT_EQ(RankRowsMax({8192, 1, 16, 1}), 8192);
}

// 16 MiB hold 47 rows of 87,424 logits and 48 of 87,360: ranks that make their parts' rows together
// must not each go by its own.
TEST(LogitRows, AreTheSameOnAllRanksOfAStage) {
  ModelConfig model = *NamedModel("llama-3.1-70b");
  model.vocab_size = 262'144;
  const ParallelLayout layout{.tp = 3};
  const RankPart first = PartOf(model, layout, 0), last = PartOf(model, layout, 2);
  EXPECT_NE(first.vocab(), last.vocab());
  for (int rank = 0; rank < layout.tp; ++rank) {
    EXPECT_EQ(LogitRows(PartOf(model, layout, rank), kHostTiles), 47);
  }
}

// A decode step of 64 streams draws from one call of the head, whatever the vocabulary; a default
// step's rows pass the MLP at once.
TEST(RowTiles, OfADeviceHoldADefaultStep) {
  const ModelConfig model = *NamedModel("llama-3.1-70b");  // 128,256 tokens
  const RankPart part = PartOf(model, {}, 0);
  EXPECT_EQ(LogitRows(part, kHostTiles), 32);
  EXPECT_EQ(LogitRows(part, kDeviceTiles), 64);
  EXPECT_EQ(DecoderBuffersOf(model, part, 512, kHostTiles).gate_up.rows, 128);
  EXPECT_EQ(DecoderBuffersOf(model, part, 512, kDeviceTiles).gate_up.rows, 512);
}

// A step of a million rows over 128 ranks of an H100 each: what is held grows with the rank's share
// and with the step, not with their product times the ranks.
TEST(SharingBuffers, OfAMillionRowsFitADevice) {
  ModelConfig model = *NamedModel("llama-3.1-70b");
  const ParallelLayout layout{.tp = 8, .sp = 128};
  const StepBounds bounds{1 << 20, 1, 16, layout.sp};
  const RankPart part = PartOf(model, layout, 0);
  const SharingBuffers sizes = SharingBuffersOf(model, part, bounds);
  EXPECT_EQ(sizes.queries.rows, 8192 + 1);
  EXPECT_EQ(sizes.partials.rows, 128 * (8192 + 1) + 8);
  EXPECT_LT(sizes.bytes(), int64_t{14} << 30);
  EXPECT_GT(sizes.bytes(), int64_t{12} << 30);  // 4 KiB of queries and of partials, a row thrice
  Workload workload;
  workload.context = workload.step_tokens_max = 1 << 20;
  workload.sequences_max = 1;
  const RankMemory rank = MemoryOfRank(2.0, model, layout, 0, workload);
  EXPECT_GT(rank.activations, static_cast<uint64_t>(sizes.bytes()));
  EXPECT_LT(rank.total(), 80'000'000'000u);
}

}  // namespace
}  // namespace echelon
