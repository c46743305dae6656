#include "worker/executor.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <thread>

#include "common/run_setup.h"
#include "tests/support/model_builder.h"
#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

// What one rank asked of its communicators.
struct Traffic {
  int all_reduces = 0;
  int64_t reduced_values = 0;
  int all_gathers = 0;
  int sends = 0;
  int64_t sent_bytes = 0;
  bool operator==(const Traffic&) const = default;
};

// Counts and hands on; the groups split off count into the same place.
class CountingCommunicator final : public Communicator {
 public:
  CountingCommunicator(std::unique_ptr<Communicator> inner, Traffic* traffic)
      : inner_(std::move(inner)), traffic_(traffic) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  CommHandle AllReduceSum(float* data, int64_t count) override {
    ++traffic_->all_reduces;
    traffic_->reduced_values += count;
    return inner_->AllReduceSum(data, count);
  }
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    ++traffic_->all_gathers;
    return inner_->AllGather(send, recv, bytes);
  }
  CommHandle Broadcast(void* data, size_t bytes, int root) override {
    return inner_->Broadcast(data, bytes, root);
  }
  CommHandle Send(const void* data, size_t bytes, int to) override {
    ++traffic_->sends;
    traffic_->sent_bytes += static_cast<int64_t>(bytes);
    return inner_->Send(data, bytes, to);
  }
  CommHandle Recv(void* data, size_t bytes, int from) override {
    return inner_->Recv(data, bytes, from);
  }
  void Wait(CommHandle handle) override { inner_->Wait(handle); }
  void Poll() override { inner_->Poll(); }
  std::unique_ptr<Communicator> Split(int color, int key) override {
    return std::make_unique<CountingCommunicator>(inner_->Split(color, key), traffic_);
  }
  CommStats TakeStats() override { return inner_->TakeStats(); }

 private:
  std::unique_ptr<Communicator> inner_;
  Traffic* traffic_;
};

constexpr int kLayers = 3;
constexpr int kWidth = 64;

SequenceStep Prompt(std::vector<int32_t> tokens) {
  SequenceStep step;
  step.id = 1;
  step.prompt_tokens = static_cast<int32_t>(tokens.size());
  step.tokens = std::move(tokens);
  step.new_pages = {0};
  step.first = true;
  step.sample = true;
  step.params.temperature = 0.0f;
  return step;
}

// The traffic of each rank in one greedy decode step, after a prompt of three tokens.
std::vector<Traffic> TrafficOfDecode(int tp, int pp, const ModelSettings& schedule) {
  ScratchFolder folder;
  TinyModel tiny;
  tiny.n_layers = kLayers;
  tiny.d_model = kWidth;
  const auto checkpoint = TinyDummy(tiny, folder.path());
  const ModelConfig model = ModelFrom(checkpoint->config(), schedule).value().model;
  std::vector<Traffic> traffic(tp * pp);
  auto endpoints = MakeLocalCommunicators(tp * pp);
  std::mutex loading;
  const SystemClock clock;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < tp * pp; ++rank) {
    threads.emplace_back([&, rank] {
      CountingCommunicator world(std::move(endpoints[rank]), &traffic[rank]);
      ExecutorOptions options;
      options.layout.tp = tp;
      options.layout.pp = pp;
      options.rank = rank;
      options.kv_memory_bytes = 1 << 20;
      const auto backend = MakeBackend({"reference", 1, "auto"}).value();
      std::unique_lock lock(loading);
      Weights weights = LoadWeights(*checkpoint, model, PartOf(model, options.layout, rank),
                                    uint64_t{1} << 40, *backend)
                            .value();
      lock.unlock();
      const auto executor =
          Executor::Create(model, options, std::move(weights), *backend, world, clock).value();
      StepPlan plan;
      plan.sequences = {Prompt({1, 2, 3})};
      ASSERT_TRUE(executor->Run(plan).ok());
      traffic[rank] = {};
      SequenceStep decode;
      decode.id = 1;
      decode.start_position = 3;
      decode.tokens = {kTokenFromLastStep};
      decode.sample = true;
      plan.step_id = 1;
      plan.sequences = {decode};
      const auto result = executor->Run(plan);
      ASSERT_TRUE(result.ok());
      EXPECT_EQ(result->has_value(), rank == ResultRank(options.layout));
    });
  }
  for (auto& thread : threads) thread.join();
  return traffic;
}

ModelSettings Schedule(const char* name, const char* pattern = "") {
  ModelSettings settings;
  settings.schedule = name;
  settings.desync_pattern = pattern;
  return settings;
}

// Megatron's accounting, so that nobody adds a collective unnoticed: two all-reduces a layer, one
// for the vocabulary-parallel embedding, one small exchange for the head.
TEST(Executor, CollectivesOfADecodeStep) {
  struct Expected {
    ModelSettings schedule;
    int all_reduces;
  };
  for (const Expected& e :
       {Expected{Schedule("standard"), 1 + 2 * kLayers},
        Expected{Schedule("ladder"), 1 + 2 * kLayers}, Expected{Schedule("parallel"), 1 + kLayers},
        // Attention's of every layer, and the model's last.
        Expected{Schedule("desync", "10"), 1 + kLayers + 1},
        Expected{Schedule("desync", "00"), 1 + 1}}) {
    const auto traffic = TrafficOfDecode(2, 1, e.schedule);
    EXPECT_EQ(traffic[0].all_reduces, e.all_reduces) << e.schedule.schedule;
    EXPECT_EQ(traffic[0].reduced_values, int64_t{e.all_reduces} * kWidth);  // one row each
    EXPECT_EQ(traffic[0].all_gathers, 1);
    EXPECT_EQ(traffic[0].sends, 0);  // the result rank reports to nobody
    EXPECT_EQ(traffic[1].sends, 1);  // its timings
  }
}

// A stage boundary carries the residual; under a ladder the pending output as a second message.
TEST(Executor, MessagesOfAPipelineStep) {
  const int64_t row = kWidth * static_cast<int64_t>(sizeof(float));
  const auto timing = static_cast<int64_t>(sizeof(RankTiming));
  for (const bool ladder : {false, true}) {
    const auto traffic = TrafficOfDecode(1, 3, Schedule(ladder ? "ladder" : "standard"));
    const int messages = ladder ? 2 : 1;
    for (const int stage : {0, 1}) {
      EXPECT_EQ(traffic[stage].sends, messages + 1);  // and the timings
      EXPECT_EQ(traffic[stage].sent_bytes, messages * row + timing);
    }
    EXPECT_EQ(traffic[2].sends, 1);  // the token, to the first stage
    EXPECT_EQ(traffic[2].sent_bytes, static_cast<int64_t>(sizeof(int32_t)));
  }
}

}  // namespace
}  // namespace echelon
