// What the planner says that ranks compute in, against what they allocated.

#include "common/step_buffers.h"

#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "common/planner/memory.h"
#include "common/run_setup.h"
#include "tests/support/model_builder.h"
#include "worker/comm/local_comm.h"
#include "worker/executor.h"
#include "worker/kv_cache.h"

namespace echelon {
namespace {

void ExpectForetold(const Checkpoint& checkpoint, const char* schedule,
                    const ParallelLayout& layout) {
  ModelSettings settings;
  settings.schedule = schedule;
  const ModelConfig model = ModelFrom(checkpoint.config(), settings).value().model;
  auto endpoints = MakeLocalCommunicators(layout.world());
  std::mutex loading;
  const SystemClock clock;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < layout.world(); ++rank) {
    threads.emplace_back([&, rank] {
      ExecutorOptions options;
      options.layout = layout;
      options.rank = rank;
      options.kv_memory_bytes = 1 << 20;
      options.page_tokens = 4;
      options.sequences_max = 5;
      options.step_tokens_max = 300;  // of which 5 pages of 4 may begin on one rank
      const auto backend = MakeBackend({"reference", 1, "auto"}).value();
      const RankPart part = PartOf(model, layout, rank);
      std::unique_lock lock(loading);
      Weights weights = LoadWeights(checkpoint, model, part, uint64_t{1} << 40, *backend).value();
      lock.unlock();
      const auto executor =
          Executor::Create(model, options, std::move(weights), *backend, *endpoints[rank], clock)
              .value();
      Workload workload;
      workload.context = executor->context_max();
      workload.sequences_max = options.sequences_max;
      workload.step_tokens_max = options.step_tokens_max;
      workload.page_tokens = options.page_tokens;
      EXPECT_EQ(MemoryOfRank(checkpoint, model, layout, rank, workload).activations,
                executor->buffer_bytes())
          << schedule << " tp " << layout.tp << " pp " << layout.pp << " sp " << layout.sp
          << " rank " << rank;
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(StepBuffers, WhatIsAllocatedWasForetold) {
  const ScratchFolder folder;
  TinyModel tiny;
  tiny.n_layers = 3;
  tiny.n_heads = 6;
  tiny.n_kv_heads = 3;
  const auto checkpoint = TinyDummy(tiny, folder.path());
  for (const char* schedule : {"standard", "ladder", "parallel"}) {
    ExpectForetold(*checkpoint, schedule, {});
    ExpectForetold(*checkpoint, schedule, {.tp = 2, .pp = 2});
    ExpectForetold(*checkpoint, schedule, {.sp = 3});
    ExpectForetold(*checkpoint, schedule, {.tp = 2, .pp = 2, .sp = 2});
  }
}

}  // namespace
}  // namespace echelon
