#include "worker/local_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <numeric>
#include <thread>

#include "common/rank_part.h"
#include "common/step_buffers.h"
#include "common/strings.h"
#include "kernels/reference/reference_backend.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

constexpr int kPageTokens = 4;

class LocalGroupTest : public ::testing::Test {
 protected:
  LocalGroupTest() {
    options_.backend.name = "reference";
    options_.executor.page_tokens = kPageTokens;
    options_.executor.context_max = 32;
    options_.executor.sequences_max = 4;
    options_.layout.tp = 2;
    options_.layout.pp = 2;
  }
  Result<std::unique_ptr<LocalGroup>> Start() {
    return LocalGroup::Start(*checkpoint_, checkpoint_->config(), options_);
  }
  std::string StartError() {
    const auto group = Start();
    return group.ok() ? "started" : group.error().message;
  }

  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_ = TinyDummy({}, folder_.path());
  LocalGroupOptions options_;
};

// A device that fails in its first step; what it computes stays right, so that no rank waits.
class FailingBackend : public reference::ReferenceBackend {
 public:
  explicit FailingBackend(int rank) : ReferenceBackend(1), rank_(rank) {}
  Status Health() const override {
    return InternalError(StrCat("device ", rank_, " fell off the bus"));
  }

 private:
  const int rank_;
};

// Rank 2 gives the results.
TEST_F(LocalGroupTest, EveryRanksErrorIsTold) {
  options_.make_backend = [](int rank, const BackendOptions& chosen) {
    if (rank % 2 == 0) return MakeBackend(chosen);
    return Result<std::unique_ptr<Backend>>(std::make_unique<FailingBackend>(rank));
  };
  const auto group = Start().value();
  StepPlan plan;
  plan.sequences.resize(1);
  plan.sequences[0].id = 1;
  plan.sequences[0].tokens = {1};
  plan.sequences[0].new_pages = {0};
  plan.sequences[0].first = true;
  plan.sequences[0].prompt_tokens = 1;
  plan.sequences[0].sample = true;
  const auto result = group->Run(plan);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("rank 1: device 1 fell off the bus"));
  EXPECT_THAT(result.error().message, HasSubstr("rank 3: device 3 fell off the bus"));
}

TEST_F(LocalGroupTest, AStartsErrorNamesItsRank) {
  options_.make_backend = [](int rank, const BackendOptions& chosen) {
    if (rank != 3) return MakeBackend(chosen);
    return Result<std::unique_ptr<Backend>>(Unsupported("no such device"));
  };
  EXPECT_EQ(StartError(), "rank 3: no such device");
}

TEST_F(LocalGroupTest, ABadPlanIsAnErrorAndTheGroupGoesOn) {
  const auto group = Start().value();
  testing::Wish wish;
  wish.prompt = {1, 2, 3, 4, 5};
  wish.params = testing::Greedy();
  const auto before = testing::Generate(*group, {wish}, kPageTokens);
  StepPlan bad;
  bad.sequences.resize(1);
  bad.sequences[0].id = 77;
  bad.sequences[0].tokens = {1};
  const auto refused = group->Run(bad);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("sequence 77: is not known"));
  EXPECT_THAT(refused.error().message, HasSubstr("ranks 0, 1, 2, 3: "));
  EXPECT_EQ(testing::Generate(*group, {wish}, kPageTokens), before);
}

TEST_F(LocalGroupTest, EveryRankReportsItsTimings) {
  const auto group = Start().value();
  std::vector<int> reports(4, 0);
  for (uint64_t step = 0; step < 3; ++step) {
    StepPlan plan;
    plan.step_id = step;
    plan.sequences.resize(1);
    SequenceStep& s = plan.sequences[0];
    s.id = 1;
    s.start_position = static_cast<int32_t>(step);
    s.tokens = {5};
    s.first = step == 0;
    s.prompt_tokens = 3;
    if (s.first) s.new_pages = {0};
    const StepResult result = group->Run(plan).value();
    EXPECT_EQ(result.step_id, step);
    for (const RankTiming& timing : result.timings) {
      ++reports[timing.rank];
      EXPECT_GT(timing.compute_seconds + timing.comm_exposed_seconds, 0.0f);
    }
  }
  // The result rank (stage 1, tp 0) reports at once, the others one step later.
  EXPECT_EQ(reports, (std::vector{2, 2, 3, 2}));
}

// 80 rows of 1024 floats: more than the stream between two stages holds, and no plan follows.
TEST_F(LocalGroupTest, AStageThatWaitsForPlansSendsALongMessageToItsEnd) {
  TinyModel model;
  model.d_model = 1024;
  checkpoint_ = TinyDummy(model, folder_.path());
  options_.layout.tp = 1;
  options_.executor.context_max = 128;
  const auto group = Start().value();
  testing::Wish wish;
  wish.prompt.resize(80, 7);
  wish.max_tokens = 2;
  wish.params = testing::Greedy();
  testing::Pace pace;
  pace.chunk = 80;
  EXPECT_EQ(testing::Generate(*group, {wish}, kPageTokens, pace)[0].tokens.size(), 2u);
}

// 250 rows of 1024 floats are four times what the stream between two stages holds: the first stage
// has run its plans and still has something to send when the group is destroyed.
TEST_F(LocalGroupTest, AGroupThatIsDestroyedSendsLongMessagesToTheirEnd) {
  TinyModel model;
  model.d_model = 1024;
  checkpoint_ = TinyDummy(model, folder_.path());
  options_.layout.tp = 1;
  options_.executor.context_max = 256;
  for (int run = 0; run < 3; ++run) {
    auto group = Start().value();
    StepPlan plan;
    plan.sequences.resize(1);
    SequenceStep& s = plan.sequences[0];
    s.id = 1;
    s.first = true;
    s.tokens.assign(250, 7);
    s.prompt_tokens = 256;
    s.new_pages.resize((250 + kPageTokens - 1) / kPageTokens);
    std::iota(s.new_pages.begin(), s.new_pages.end(), 0);
    group->Post(plan);
    // A thread of its own, so that a group that never ends fails this test alone.
    std::promise<void> ended;
    std::future<void> end = ended.get_future();
    std::thread([group = std::move(group), ended = std::move(ended)]() mutable {
      group.reset();
      ended.set_value();
    }).detach();
    ASSERT_EQ(end.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  }
}

TEST_F(LocalGroupTest, AModelThatDoesNotFitSaysWhichRankNeedsWhat) {
  options_.weight_memory_bytes = 1000;
  EXPECT_THAT(StartError(), HasSubstr("weights need"));
  options_.weight_memory_bytes = 0;
  options_.executor.kv_memory_bytes = 10;
  EXPECT_THAT(StartError(), HasSubstr("one KV page of 4 tokens needs"));
}

TEST_F(LocalGroupTest, ALayoutThatCannotWorkIsRefused) {
  options_.layout.tp = 5;  // 4 heads
  EXPECT_THAT(StartError(), HasSubstr("tp = 5"));
  options_.layout.tp = 1;
  options_.layout.pp = 3;  // 2 layers
  EXPECT_THAT(StartError(), HasSubstr("pp = 3"));
}

TEST_F(LocalGroupTest, PagesAreThoseOfTheRankWithTheLeast) {
  options_.layout.pp = 1;
  options_.executor.kv_memory_bytes = 1 << 14;
  // tp = 2 of 2 KV heads: a page is 2 x 2 layers x 4 tokens x 1 head x 16 x 2 bytes = 512.
  EXPECT_EQ(Start().value()->pages(), 32);
}

// Says how much memory is free, and whether it is a host's.
class RoomyBackend : public reference::ReferenceBackend {
 public:
  RoomyBackend(uint64_t free, uint64_t scratch, bool host)
      : ReferenceBackend(1), free_(free), scratch_(scratch), host_(host) {}
  uint64_t FreeMemoryBytes() const override { return free_; }
  bool host_memory() const override { return host_; }
  uint64_t ScratchBytes(int64_t, int64_t) const override { return scratch_; }

 private:
  const uint64_t free_, scratch_;
  const bool host_;
};

// Of 4 MiB free, which two ranks have together, a device's rank leaves the buffers of its steps and
// what its ops take.
TEST_F(LocalGroupTest, KeysAndValuesTakeAPartOfWhatIsFree) {
  constexpr uint64_t kFree = 4 << 20;
  options_.layout.pp = 1;
  options_.executor.sequences_max = 1000;  // who could fill more
  options_.executor.step_tokens_max = 200;
  const auto pages = [&](bool host, uint64_t scratch) {
    options_.make_backend = [=](int, const BackendOptions&) {
      return Result<std::unique_ptr<Backend>>(std::make_unique<RoomyBackend>(kFree, scratch, host));
    };
    return static_cast<uint64_t>(Start().value()->pages());
  };
  constexpr uint64_t kPageBytes = 512;  // as above
  EXPECT_EQ(pages(true, 0), kFree / 2 / 4 / kPageBytes);
  const StepBounds bounds{200, 1000, kPageTokens, 1, kDeviceTiles};
  const ModelConfig& model = checkpoint_->config();
  const auto buffers =
      static_cast<uint64_t>(StepBufferBytes(model, PartOf(model, options_.layout, 0), bounds));
  EXPECT_GT(buffers, kFree / 16);
  EXPECT_EQ(pages(false, 1000), (kFree / 2 - buffers - 1000) / 10 * 9 / kPageBytes);
  EXPECT_EQ(pages(false, kFree), (kFree / 2 - buffers - kFree / 8) / 10 * 9 / kPageBytes);
  options_.executor.step_tokens_max = 20'000;
  EXPECT_THAT(StartError(), HasSubstr("lower scheduler.step_tokens_max or use more ranks"));
}

}  // namespace
}  // namespace echelon
