// What a rank does while the ring's messages travel, by its trace: when each was posted, and when
// the pages that it brought were attended. (The bits: tests/parallel/sequence_parallel_test.)

#include "worker/sequence_parallel.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <thread>

#include "worker/comm/local_comm.h"
#include "worker/trace.h"

namespace echelon {
namespace {

constexpr int kPageTokens = 16, kHeads = 2, kHeadDim = 4;

// A prompt that fills `passes` messages of every rank.
struct Prompt {
  int sp, passes;
  int ring_pages() const { return RingPages(sp, kPageTokens, 1, int64_t{1} << 20); }
  int pages_per_rank() const { return passes * ring_pages(); }
  int pages() const { return sp * pages_per_rank(); }
  int tokens() const { return pages() * kPageTokens; }
};

BatchLayout BatchOf(const Prompt& prompt) {
  BatchLayout batch;
  batch.ids.assign(prompt.tokens(), 0);
  batch.sequences.assign(prompt.tokens(), 0);
  for (int t = 0; t < prompt.tokens(); ++t) batch.positions.push_back(t);
  for (int page = 0; page < prompt.pages(); ++page) {
    batch.pages.push_back(page % prompt.sp * prompt.pages_per_rank() + page / prompt.sp);
  }
  batch.page_begin = {0, prompt.pages()};
  batch.steps = {{1, 0, prompt.tokens()}};
  return batch;
}

// One layer's attention on one rank.
void AttendOnce(const Prompt& prompt, int rank, Communicator& exchange,
                std::unique_ptr<Communicator> ring, Trace& trace) {
  auto backend = MakeBackend({.name = "reference", .threads = 1});
  ASSERT_TRUE(backend.ok());
  const auto timed = MakeTimedBackend(std::move(*backend), trace);
  const auto traced = MakeTracedComm(std::move(ring), trace);
  auto cache =
      timed->AllocateKv({1, prompt.pages_per_rank(), kPageTokens, 1, kHeadDim, KvType::kF32});
  ASSERT_TRUE(cache.ok());
  ModelConfig model;
  model.n_heads = kHeads;
  model.n_kv_heads = 1;
  model.head_dim = kHeadDim;
  RankPart part;
  part.shard.heads = {0, kHeads};
  part.shard.kv_heads = {0, 1};
  SequenceSharing sharing;
  sharing.parts = {prompt.sp, kPageTokens};
  sharing.rank = rank;
  sharing.pages_per_rank = prompt.pages_per_rank();
  sharing.ring_pages = prompt.ring_pages();
  const StepBounds bounds{prompt.tokens(), 1, kPageTokens, prompt.sp, kHostTiles};
  auto made =
      SequenceParallel::Create(model, part, sharing, *timed, **cache, exchange, *traced, bounds);
  ASSERT_TRUE(made.ok()) << made.error().message;

  const StepRows own = (*made)->Begin(BatchOf(prompt), 0)[0];
  const auto rows = static_cast<int64_t>(own.ids.size());
  std::vector<float> q(rows * kHeads * kHeadDim, 1.0f), out(q.size());
  AttentionArgs args;
  args.q = Tensor(q.data(), rows, kHeads * kHeadDim);
  args.out = Tensor(out.data(), rows, kHeads * kHeadDim);
  args.heads = kHeads;
  args.head_dim = kHeadDim;
  args.group = kHeads;
  args.scale = 1.0f;
  (*made)->Attend(args, 0);
  EXPECT_EQ((*made)->TakeCounts().keys, 1u) << "keys and values went round the ring";
}

// In the order of their calls.
std::vector<int64_t> BeginsOf(const Trace& trace, std::string_view name) {
  std::vector<int64_t> begins;
  for (const TraceEvent& event : trace.events()) {
    if (event.name == name && event.track != TraceTrack::kWait) begins.push_back(event.begin_ns);
  }
  return begins;
}

// The first message travels behind the rank's own pages, every other one behind the pages that the
// one before it brought.
TEST(SequenceParallel, EveryMessageTravelsBehindAttention) {
  for (const Prompt& prompt : {Prompt{2, 3}, Prompt{3, 2}, Prompt{2, 1}}) {
    SCOPED_TRACE(std::to_string(prompt.sp) + " ranks");
    auto exchanges = MakeLocalCommunicators(prompt.sp), rings = MakeLocalCommunicators(prompt.sp);
    std::vector<Trace> traces(prompt.sp, Trace(0, "h"));
    std::vector<std::thread> ranks;
    for (int r = 0; r < prompt.sp; ++r) {
      ranks.emplace_back(
          [&, r] { AttendOnce(prompt, r, *exchanges[r], std::move(rings[r]), traces[r]); });
    }
    for (std::thread& rank : ranks) rank.join();
    const int messages = prompt.passes * (prompt.sp - 1);
    for (const Trace& trace : traces) {
      const std::vector<int64_t> posted = BeginsOf(trace, "send"),
                                 attended = BeginsOf(trace, "attention");
      ASSERT_EQ(posted.size(), static_cast<size_t>(messages));
      ASSERT_EQ(attended.size(), static_cast<size_t>(messages) + 1);
      for (int m = 0; m < messages; ++m) {
        EXPECT_LT(posted[m], attended[m]) << "message " << m;
        if (m == 0) continue;
        EXPECT_LT(attended[m - 1], posted[m]) << "there is room for kRingMessages";
      }
    }
  }
}

}  // namespace
}  // namespace echelon
