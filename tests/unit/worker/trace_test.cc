// What a trace keeps of a backend's ops and of messages, and the file it writes.

#include "worker/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(Trace, AMessageIsInFlightUntilItsWait) {
  auto ranks = MakeLocalCommunicators(2);
  Trace trace(0, "h");
  const auto traced = MakeTracedComm(std::move(ranks[0]), trace);
  std::thread peer([&] {
    float data[3] = {1, 1, 1};
    ranks[1]->Wait(ranks[1]->AllReduceSum(data, 3));
  });
  float data[3] = {1, 2, 3};
  const CommHandle handle = traced->AllReduceSum(data, 3);
  const int64_t posted_ns = Trace::NowNs();
  traced->Wait(handle);
  traced->Wait(handle);  // nothing is left to wait for
  peer.join();
  EXPECT_EQ(data[2], 4.0f);
  ASSERT_EQ(trace.events().size(), 2u);
  const TraceEvent& flight = trace.events()[0];
  const TraceEvent& wait = trace.events()[1];
  EXPECT_EQ(flight.track, TraceTrack::kInFlight);
  EXPECT_EQ(wait.track, TraceTrack::kWait);
  EXPECT_EQ(flight.amount, 12);
  EXPECT_LE(flight.begin_ns, posted_ns);
  EXPECT_LE(posted_ns, wait.begin_ns);
  EXPECT_EQ(flight.end_ns, wait.end_ns);
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
  EXPECT_DOUBLE_EQ(events[6].Find("ts")->as_double(), 1234.567);
  EXPECT_DOUBLE_EQ(events[7].Find("ts")->as_double(), 2000.001);
}

}  // namespace
}  // namespace echelon
