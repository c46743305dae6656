// Tokens drawn by ranks that have a part of the vocabulary each: on every rank the host's draws
// from the whole rows. Parts of one slice and of several, of other sizes, and empty ones.

#include <gtest/gtest.h>

#include "tests/cuda/draw_check.h"
#include "tests/cuda/stream_ranks.h"

namespace echelon {
namespace {

using OnPart = std::function<void(Backend& backend, Range own, const VocabPart& part)>;

void OverRanks(int ranks, int64_t vocab, const OnPart& body) {
  testing::OnStreamRanks(ranks, [&](Backend& backend, Communicator& comm) {
    const auto part_of = [&](int rank) { return SplitEvenly(vocab, ranks, rank, kVocabUnit); };
    const Range own = part_of(comm.rank());
    VocabPart part;
    part.rank = comm.rank();
    part.ranks = ranks;
    part.begin = static_cast<int32_t>(own.begin);
    for (int r = 0; r < ranks; ++r) part.cols_max = std::max(part.cols_max, part_of(r).size());
    part.gather = [&](void* all, size_t bytes) {
      const auto rank = static_cast<size_t>(comm.rank());
      comm.Wait(comm.AllGather(static_cast<char*>(all) + rank * bytes, all, bytes));
    };
    body(backend, own, part);
  });
}

void CompareDrawsOver(int ranks, const std::vector<float>& logits, int64_t vocab) {
  OverRanks(ranks, vocab, [&](Backend& backend, Range own, const VocabPart& part) {
    testing::CompareDraws(backend, own, &part, logits, vocab);
  });
}

TEST(CudaDrawOverRanks, IsTheHosts) {
  CompareDrawsOver(2, testing::DrawLogits(3), 3);
  CompareDrawsOver(3, testing::DrawLogits(255), 255);
  CompareDrawsOver(2, testing::DrawLogits(8200), 8200);
  CompareDrawsOver(3, testing::DrawLogits(13000), 13000);
}

TEST(CudaDrawOverRanks, ScoresKnownTokensAsTheHostDoes) {
  for (const int64_t vocab : {1, 255, 9000}) {
    OverRanks(3, vocab, [&](Backend& backend, Range own, const VocabPart& part) {
      testing::CompareScores(backend, own, &part, testing::DrawLogits(vocab), vocab);
    });
  }
}

TEST(CudaDrawOverRanks, LogitsThatAreNoNumbers) {
  for (const auto& logits : testing::NoNumbers()) {
    CompareDrawsOver(2, logits, testing::kNoNumbersVocab);
  }
}

}  // namespace
}  // namespace echelon
