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

// Both ends of a message in one thread: what is sent fits its stream.
class MismatchedSizes : public ::testing::Test {
 protected:
  // Rank 1 waits for what it expects, after rank 0 has sent something else.
  template <typename Send, typename Receive>
  static void Exchange(Send send, Receive receive) {
    auto endpoints = MakeLocalCommunicators(2);
    send(*endpoints[0]);
    endpoints[1]->Wait(receive(*endpoints[1]));
  }
  std::vector<float> few_ = std::vector<float>(8), many_ = std::vector<float>(1000);
};

TEST_F(MismatchedSizes, AreNamedWithTheirRanks) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto send = [](auto& from) {
    return [&](Communicator& comm) { comm.Send(from.data(), from.size() * sizeof(float), 1); };
  };
  const auto receive = [](auto& into) {
    return
        [&](Communicator& comm) { return comm.Recv(into.data(), into.size() * sizeof(float), 0); };
  };
  const char* const kLess = "rank 0 of the group sent 32 bytes where rank 1 expects 4000";
  const char* const kMore = "rank 0 of the group sent 4000 bytes where rank 1 expects 32";
  EXPECT_DEATH(Exchange(send(few_), receive(many_)), kLess);
  EXPECT_DEATH(Exchange(send(many_), receive(few_)), kMore);
  const auto sum = [](auto& data) {
    return [&](Communicator& comm) { return comm.AllReduceSum(data.data(), data.size()); };
  };
  EXPECT_DEATH(Exchange(sum(few_), sum(many_)), kLess);
  EXPECT_DEATH(Exchange(sum(many_), sum(few_)), kMore);
}

// More messages than a stream tells sizes of, none of which is read before all are sent; then one
// of another size.
TEST_F(MismatchedSizes, AreSeenBehindManyMessages) {
  constexpr int kMessages = 20;
  const auto play = [&](size_t last) {
    auto endpoints = MakeLocalCommunicators(2);
    std::vector<uint8_t> sent(kMessages), read(kMessages);
    std::vector<float> into(100);
    CommHandle handle;
    for (uint8_t m = 0; m < kMessages; ++m) {
      sent[m] = m;
      endpoints[0]->Send(&sent[m], 1, 1);
    }
    handle = endpoints[0]->Send(many_.data(), last, 1);
    std::thread sender([&] { endpoints[0]->Wait(handle); });
    for (uint8_t m = 0; m < kMessages; ++m) endpoints[1]->Recv(&read[m], 1, 0);
    endpoints[1]->Wait(endpoints[1]->Recv(into.data(), 100, 0));
    sender.join();
    EXPECT_EQ(read, sent);
  };
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  play(100);
  EXPECT_DEATH(play(101), "rank 0 of the group sent 101 bytes where rank 1 expects 100");
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
