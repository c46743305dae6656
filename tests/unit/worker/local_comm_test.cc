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

// What has arrived travels no more: computing goes on for 100 ms behind it.
TEST(LocalComm, NothingIsHiddenBehindWhatComesAfterTheArrival) {
  OnRanks(2, [&](Communicator& comm) {
    using std::chrono::milliseconds;
    float value = 1.0f, other = 1.0f;
    comm.Wait(comm.AllReduceSum(&other, 1));  // both are here
    comm.TakeStats();
    int arrived = 0;
    comm.SetArrived([&](CommHandle) { ++arrived; });
    const CommHandle handle = comm.AllReduceSum(&value, 1);
    const auto begin = std::chrono::steady_clock::now();
    double in_flight = 1.0;
    while (arrived == 0 && in_flight < 10) {
      comm.Poll();
      in_flight = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    EXPECT_EQ(arrived, 1) << "polling alone notices it";
    std::this_thread::sleep_for(milliseconds(100));
    comm.Wait(handle);
    EXPECT_LE(comm.TakeStats().hidden_seconds, in_flight + 0.05);
  });
}

// A wait for something else is no computing, and what comes in meanwhile is noticed.
TEST(LocalComm, AWaitInAnotherGroupHidesNothing) {
  OnRanks(2, [&](Communicator& comm) {
    const auto tensors = comm.Split(0, comm.rank());
    float value = 1.0f, last = 1.0f;
    comm.Wait(comm.AllReduceSum(&last, 1));
    tensors->TakeStats();
    CommHandle handle;
    if (comm.rank() == 0) handle = tensors->AllReduceSum(&value, 1);
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    comm.Wait(comm.AllReduceSum(&last, 1));
    if (comm.rank() == 1) handle = tensors->AllReduceSum(&value, 1);
    tensors->Wait(handle);
    EXPECT_LT(tensors->TakeStats().hidden_seconds, 0.05);
  });
}

}  // namespace
}  // namespace echelon
