// A device's own times in a trace: what two ranks' streams and links did, in the device's order,
// with sums that travel behind ops and sums that are waited for.

#include "worker/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/worker/device_layouts.h"
#include "tests/support/worker/played_nccl.h"

namespace echelon {
namespace {

constexpr auto kTransfer = std::chrono::milliseconds(2);
constexpr int kLayers = 3;

class CudaTrace : public ::testing::Test {
 protected:
  void SetUp() override { emulation::SetEager(true); }
  void TearDown() override { emulation::SetEager(false); }

  // Of both ranks of a tiny model: a prompt of 4 tokens and two decodes, messages that take
  // kTransfer.
  void Run(const char* family) {
    ScratchFolder folder;
    TinyModel model;
    model.family = family;
    model.head_dim = 32;
    model.n_layers = kLayers;
    const auto checkpoint = TinyDummy(model, folder.path());
    LocalGroupOptions options = testing::OptionsFor({"tp2", 2, 1, 1}, "cuda");
    testing::PlayedFabric fabric;
    options.executor.comm.kind = "nccl";
    options.executor.comm.load_nccl = [&]() -> Result<std::unique_ptr<NcclLibrary>> {
      const auto slow = [](void* stream, std::function<void()> work) {
        emulation::EnqueueOn(stream, [work = std::move(work)] {
          std::this_thread::sleep_for(kTransfer);
          work();
        });
      };
      return fabric.Library({slow, emulation::CopyDevice});
    };
    options.make_backend = [&](int rank, BackendOptions chosen) {
      chosen.name = "cuda";
      chosen.timed = true;
      auto made = MakeBackend(chosen);
      if (made.ok()) made = MakeTimedBackend(*std::move(made), traces_[rank]);
      return made;
    };
    const auto group = LocalGroup::Start(*checkpoint, checkpoint->config(), options).value();
    testing::Wish wish;
    wish.prompt = {5, 6, 7, 8};
    wish.max_tokens = 3;
    wish.params = testing::Greedy();
    begin_ns_ = Trace::NowNs();
    tokens_ = testing::Generate(*group, {wish}, options.executor.page_tokens)[0].tokens;
    end_ns_ = Trace::NowNs();
  }

  // Events of the steps on a track, which must be in their order and not overlap.
  std::vector<TraceEvent> On(int rank, TraceTrack track) const {
    constexpr int64_t kClocksNs = 20'000'000;  // a busy host may be slow to see an anchor
    constexpr int64_t kRoundingNs = 1000;      // float milliseconds
    std::vector<TraceEvent> events;
    for (const TraceEvent& event : traces_[rank].events()) {
      if (event.track != track || event.begin_ns < begin_ns_ - kClocksNs) continue;
      EXPECT_LE(event.begin_ns, event.end_ns);
      EXPECT_LE(event.end_ns, end_ns_ + kClocksNs);
      // Layer -1 begins a step, whose clock was set anew.
      const int64_t before_ns = event.layer < 0 || events.empty() ? 0 : events.back().end_ns;
      EXPECT_LE(before_ns, event.begin_ns + kRoundingNs);
      events.push_back(event);
    }
    return events;
  }
  static int64_t Sum(const std::vector<TraceEvent>& events) {
    int64_t ns = 0;
    for (const TraceEvent& event : events) ns += event.end_ns - event.begin_ns;
    return ns;
  }

  Trace traces_[2] = {Trace(0, "h"), Trace(1, "h")};
  std::vector<int32_t> tokens_;
  int64_t begin_ns_ = 0, end_ns_ = 0;
};

TEST_F(CudaTrace, ShowsWhatStreamsAndLinksDid) {
  Run("llama");
  EXPECT_EQ(tokens_.size(), 3u);
  for (const int rank : {0, 1}) {
    const auto ops = On(rank, TraceTrack::kDeviceCompute);
    const auto carried = On(rank, TraceTrack::kDeviceLink);
    const auto waits = On(rank, TraceTrack::kDeviceWait);
    const auto count = [](const std::vector<TraceEvent>& events, std::string_view name) {
      return std::count_if(events.begin(), events.end(),
                           [&](const TraceEvent& event) { return event.name == name; });
    };
    EXPECT_EQ(count(ops, "attention"), 3 * kLayers);
    EXPECT_EQ(count(ops, "embed"), 3);
    // The embedding's sum, and two a layer that the next pass adds.
    EXPECT_GE(count(carried, "transfer"), 3 * (1 + 2 * kLayers));
    EXPECT_GE(count(carried, "sum"), 3);
    std::set<int> layers;
    for (const TraceEvent& event : carried) {
      layers.insert(event.layer);
      if (std::string_view(event.name) == "transfer") {
        EXPECT_GE(event.end_ns - event.begin_ns, kTransfer / std::chrono::nanoseconds(1));
      }
    }
    EXPECT_EQ(layers, (std::set<int>{-1, 0, 1, 2}));
    for (const TraceEvent& wait : waits) {
      // Each is for something that the link was at.
      EXPECT_TRUE(std::any_of(carried.begin(), carried.end(), [&](const TraceEvent& event) {
        return event.begin_ns < wait.end_ns && wait.begin_ns < event.end_ns;
      }));
    }
    // Standard waits for whatever it sends.
    EXPECT_GE(Sum(waits), 3 * 2 * kLayers * (kTransfer / std::chrono::nanoseconds(1)) / 2);
    // The host's waits for a device are no events; what it computes, neither.
    EXPECT_EQ(count(traces_[rank].events(), "matmul"), count(ops, "matmul"));
  }
}

TEST_F(CudaTrace, LadderWaitsForLessThanItSends) {
  Run("llamaLadder");
  for (const int rank : {0, 1}) {
    EXPECT_LT(Sum(On(rank, TraceTrack::kDeviceWait)), Sum(On(rank, TraceTrack::kDeviceLink)));
  }
}

TEST_F(CudaTrace, AFileHasTheDevicesTracks) {
  Run("llama");
  ScratchFolder folder;
  ASSERT_TRUE(traces_[1].Write(folder.path()).ok());
  const std::string text = ReadFile(folder / "rank-1.json");
  ASSERT_TRUE(Json::Parse(text, "trace").ok());
  for (const char* name : {"device compute (op by op, no graphs)", "device waits",
                           "\"device communication\"", "\"name\":\"transfer\""}) {
    EXPECT_NE(text.find(name), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace echelon
