#include "worker/comm/local_comm.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/support/comm_contract.h"

namespace echelon {
namespace {

// Runs `body(endpoint)` on a thread per rank.
template <typename Body>
void OnRanks(int size, Body body) {
  auto endpoints = MakeLocalCommunicators(size);
  std::vector<std::thread> threads;
  for (auto& endpoint : endpoints) threads.emplace_back([&] { body(*endpoint); });
  for (auto& thread : threads) thread.join();
}

class LocalCommTest : public ::testing::TestWithParam<int> {};

TEST_P(LocalCommTest, KeepsTheContract) {
  std::vector<std::vector<std::string>> broken(GetParam());
  OnRanks(GetParam(), [&](Communicator& comm) {
    broken[comm.rank()] = testing::CheckCommunicatorContract(comm);
  });
  for (const auto& lines : broken) {
    for (const auto& line : lines) ADD_FAILURE() << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, LocalCommTest, ::testing::Range(1, 9));

TEST(LocalComm, TimeBetweenIssueAndWaitIsHiddenAndTheRestExposed) {
  std::atomic<bool> issued = false;
  OnRanks(2, [&](Communicator& comm) {
    using std::chrono::milliseconds;
    float value = 1.0f;
    if (comm.rank() == 1) {  // comes 100 ms late
      while (!issued) std::this_thread::yield();
      std::this_thread::sleep_for(milliseconds(100));
      comm.Wait(comm.AllReduceSum(&value, 1));
      return;
    }
    const CommHandle handle = comm.AllReduceSum(&value, 1);
    issued = true;
    std::this_thread::sleep_for(milliseconds(20));  // computes
    comm.Wait(handle);
    const CommStats stats = comm.TakeStats();
    EXPECT_GE(stats.hidden_seconds, 0.019);
    EXPECT_GE(stats.hidden_seconds + stats.exposed_seconds, 0.099);
  });
}

}  // namespace
}  // namespace echelon
