// What a trace keeps of a backend's ops and of messages, and the file it writes.

#include "worker/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/json.h"
#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

using ::testing::ElementsAre;

std::unique_ptr<Backend> Timed(OpObserver& observer) {
  auto backend = MakeBackend({.name = "reference", .threads = 1});
  EXPECT_TRUE(backend.ok());
  return MakeTimedBackend(std::move(*backend), observer);
}

TEST(Trace, OpsAreNamedByTheirWeights) {
  Trace trace(0, "h");
  const auto backend = Timed(trace);
  float x[4] = {1, 2, 3, 4}, norm[2] = {1, 1}, matrix[4] = {1, 0, 0, 1}, out[4] = {};
  const HostMatrix part = {.rows = 2,
                           .cols = 2,
                           .data = reinterpret_cast<const std::byte*>(matrix),
                           .row_bytes = 8,
                           .col_end = 2};
  Weights weights;
  weights.layers.resize(2);
  auto down = backend->PackWeight({&part, 1});
  ASSERT_TRUE(down.ok());
  weights.layers[1].down = std::move(*down);
  trace.NameWeights(weights, 10);
  backend->RmsNorm(Tensor(x, 2, 2), norm, 1e-5f, Tensor(out, 2, 2));
  backend->MatMul(Tensor(x, 2, 2), *weights.layers[1].down, nullptr, Tensor(out, 2, 2));
  backend->AddResidual(Tensor(x, 2, 2), Tensor(out, 2, 2), 1.0f, nullptr, 0.0f);
  ASSERT_EQ(trace.events().size(), 3u);
  std::vector<std::string> names;
  for (const TraceEvent& event : trace.events()) {
    names.push_back(event.name);
    EXPECT_EQ(event.amount, 2);
    EXPECT_LE(event.begin_ns, event.end_ns);
  }
  EXPECT_THAT(names, ElementsAre("rms_norm", "down", "add_residual"));
  EXPECT_EQ(trace.events()[0].layer, -1);
  EXPECT_EQ(trace.events()[1].layer, 11);
  EXPECT_EQ(trace.events()[2].layer, 11);  // of the op before
  EXPECT_EQ(out[3], 4.0f);                 // and the op was done
}

// Two ranks; the other one posts its part of one all-reduce, and comes `late` to it.
struct OneMessage {
  TraceEvent flight, wait;
  int64_t posted_ns = 0, polled_ns = 0;
};

OneMessage TraceOneMessage(std::chrono::milliseconds late, bool poll) {
  auto ranks = MakeLocalCommunicators(2);
  Trace trace(0, "h");
  const auto traced = MakeTracedComm(std::move(ranks[0]), trace);
  std::atomic<bool> posted = false, sent = false;
  std::thread peer([&] {
    float data[3] = {1, 1, 1};
    while (!posted) std::this_thread::yield();
    std::this_thread::sleep_for(late);
    const CommHandle handle = ranks[1]->AllReduceSum(data, 3);
    sent = true;
    ranks[1]->Wait(handle);
  });
  trace.OnOp({"attention", nullptr, 5, 1, 0, 1});
  float data[3] = {1, 2, 3};
  const CommHandle handle = traced->AllReduceSum(data, 3);
  OneMessage seen;
  seen.posted_ns = Trace::NowNs();
  trace.OnOp({"attention", nullptr, 6, 1, 1, 2});
  posted = true;
  while (poll && !sent) std::this_thread::yield();
  if (poll) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (poll) traced->Poll();
  seen.polled_ns = Trace::NowNs();
  traced->Wait(handle);
  traced->Wait(handle);  // nothing is left to wait for
  peer.join();
  EXPECT_EQ(data[2], 4.0f);
  EXPECT_EQ(trace.events().size(), 2u + 2);
  seen.flight = trace.events()[2];
  seen.wait = trace.events()[3];
  EXPECT_EQ(seen.flight.track, TraceTrack::kInFlight);
  EXPECT_EQ(seen.wait.track, TraceTrack::kWait);
  for (const TraceEvent& event : {seen.flight, seen.wait}) {
    EXPECT_EQ(event.amount, 12);
    EXPECT_EQ(event.layer, 5) << "whose output it carries";
    EXPECT_EQ(event.message, 1);
  }
  EXPECT_LE(seen.flight.begin_ns, seen.posted_ns);
  EXPECT_LE(seen.polled_ns, seen.wait.begin_ns);
  return seen;
}

TEST(Trace, AMessageThatIsWaitedForArrivesInItsWait) {
  const OneMessage seen = TraceOneMessage(std::chrono::milliseconds(5), false);
  EXPECT_LE(seen.wait.begin_ns + 4'000'000, seen.flight.end_ns);
  EXPECT_LE(seen.flight.end_ns, seen.wait.end_ns);
}

TEST(Trace, AMessageArrivesAtThePollThatSeesIt) {
  const OneMessage seen = TraceOneMessage(std::chrono::milliseconds(0), true);
  EXPECT_LE(seen.posted_ns, seen.flight.end_ns);
  EXPECT_LE(seen.flight.end_ns, seen.polled_ns) << "before it is waited for";
}

TEST(Trace, AGroupOfOneHasNothingToTell) {
  auto ranks = MakeLocalCommunicators(1);
  Trace trace(0, "h");
  const auto traced = MakeTracedComm(std::move(ranks[0]), trace);
  float data[1] = {1};
  traced->Wait(traced->AllReduceSum(data, 1));
  EXPECT_TRUE(trace.events().empty());
}

TEST(Trace, TheFileIsJson) {
  Trace trace(3, "host \"a\"");
  StepPlan plan;
  plan.sequences.resize(2);
  plan.sequences[0].tokens = {1, 2, 3};
  plan.sequences[1].tokens = {4};
  trace.AddStep(plan, Trace::NowNs());
  trace.AddStep(StepPlan(), Trace::NowNs());  // computes nothing: not a step
  TraceEvent flight;
  flight.name = "send";
  flight.track = TraceTrack::kInFlight;
  flight.layer = 7;
  flight.message = 12;
  flight.begin_ns = 1'234'567;
  flight.end_ns = 2'000'001;
  trace.Add(flight);
  std::string folder = (std::filesystem::temp_directory_path() / "trace-test-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  ASSERT_TRUE(trace.Write(folder).ok());
  std::stringstream text;
  text << std::ifstream(folder + "/rank-3.json").rdbuf();
  std::filesystem::remove_all(folder);
  EXPECT_FALSE(trace.Write(folder).ok());
  const auto json = Json::Parse(text.str(), "trace");
  ASSERT_TRUE(json.ok()) << json.error().message;
  const Json::Array& events = json->as_array();
  ASSERT_EQ(events.size(), 5u + 1 + 2);  // names, the step, begin and end of the message
  EXPECT_EQ(events[0].Find("args")->Find("name")->as_string(), "rank 3 (host \"a\")");
  EXPECT_EQ(events[5].Find("args")->Find("rows")->as_int(), 4);
  EXPECT_EQ(events[5].Find("args")->Find("sequences")->as_int(), 2);
  EXPECT_EQ(events[6].Find("ph")->as_string(), "b");
  EXPECT_EQ(events[6].Find("id")->as_int(), 12);
  EXPECT_EQ(events[6].Find("args")->Find("layer")->as_int(), 7);
  EXPECT_DOUBLE_EQ(events[6].Find("ts")->as_double(), 1234.567);
  EXPECT_DOUBLE_EQ(events[7].Find("ts")->as_double(), 2000.001);
}

}  // namespace
}  // namespace echelon
