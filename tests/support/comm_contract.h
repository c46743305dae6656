#pragma once
// The contract of Communicator (worker/comm/communicator.h) as one test body. Every rank of a group
// runs CheckCommunicatorContract with its own endpoint, in a thread or in a process; it returns
// what was broken, one line each, nothing when all is well.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "common/random.h"
#include "common/strings.h"
#include "worker/comm/communicator.h"

namespace echelon::testing {

// A float of mixed magnitude, so that sums in another order have other bits.
inline float ContractValue(int rank, int64_t i) {
  const auto bits = Philox(7, {static_cast<uint32_t>(rank), static_cast<uint32_t>(i), 0, 0});
  const float unit = static_cast<float>(bits[0] >> 8) / 16777216.0f - 0.5f;
  return unit * static_cast<float>(1 << (bits[1] % 20));
}

class ContractChecker {
 public:
  explicit ContractChecker(Communicator& comm) : comm_(comm) {}

  void Expect(bool condition, const std::string& what) {
    if (!condition) broken_.push_back(StrCat("rank ", comm_.rank(), ": ", what));
  }

  // INVARIANT: the sum is taken in rank order, to the bit, for every size.
  void AllReduceInRankOrder(int64_t count) {
    std::vector<float> data(count), expected(count);
    for (int64_t i = 0; i < count; ++i) {
      data[i] = ContractValue(comm_.rank(), i);
      expected[i] = ContractValue(0, i);
      for (int r = 1; r < comm_.size(); ++r) expected[i] += ContractValue(r, i);
    }
    comm_.Wait(comm_.AllReduceSum(data.data(), count));
    Expect(count == 0 || std::memcmp(data.data(), expected.data(), count * sizeof(float)) == 0,
           StrCat("all-reduce of ", count, " values is not the sum in rank order"));
  }

  // The same bits where the caller adds up what it takes; every row once, ascending; then others'
  // messages go on as after any operation. `waits`: it lets the communicator add after all.
  void RowsInRankOrder(int64_t rows, int64_t cols, bool waits) {
    std::vector<float> data(rows * cols), sum(rows * cols), expected(rows * cols);
    for (int64_t i = 0; i < rows * cols; ++i) {
      data[i] = ContractValue(comm_.rank(), i);
      expected[i] = ContractValue(0, i);
      for (int r = 1; r < comm_.size(); ++r) expected[i] += ContractValue(r, i);
    }
    float before = 1.0f, behind = 1.0f;
    comm_.AllReduceSum(&before, 1);
    const CommHandle handle = comm_.AllReduceRows(data.data(), rows, cols);
    const CommHandle last = comm_.AllReduceSum(&behind, 1);
    int64_t taken = 0;
    while (!waits) {
      const SumRows ready = comm_.NextRows(handle);
      if (ready.empty()) break;
      Expect(ready.begin == taken, StrCat("row ", ready.begin, " follows row ", taken));
      comm_.Poll();
      for (int64_t i = 0; i < (ready.end - ready.begin) * cols; ++i) {
        sum[taken * cols + i] = ready.terms[0][i];
        for (size_t t = 1; t < ready.terms.size(); ++t) sum[taken * cols + i] += ready.terms[t][i];
      }
      taken = ready.end;
    }
    if (waits) comm_.Wait(handle);
    comm_.Wait(last);
    if (waits) sum = data;
    Expect(waits || taken == rows, StrCat(taken, " of ", rows, " rows were handed out"));
    Expect(sum == expected, StrCat("rows (", rows, ", ", cols, ") are not the sum in rank order"));
    const auto n = static_cast<float>(comm_.size());
    Expect(before == n && behind == n, "sums before and behind rows");
  }

  void AllGather(size_t bytes) {
    std::vector<uint8_t> mine(bytes), all(bytes * comm_.size());
    for (size_t i = 0; i < bytes; ++i) mine[i] = static_cast<uint8_t>(31 * comm_.rank() + i);
    comm_.Wait(comm_.AllGather(mine.data(), all.data(), bytes));
    bool same = true;
    for (int r = 0; r < comm_.size(); ++r) {
      for (size_t i = 0; i < bytes; ++i) {
        same = same && all[r * bytes + i] == static_cast<uint8_t>(31 * r + i);
      }
    }
    Expect(same, StrCat("all-gather of ", bytes, " bytes is not in rank order"));
  }

  void BroadcastFromEach(size_t bytes) {
    for (int root = 0; root < comm_.size(); ++root) {
      std::vector<uint8_t> data(bytes, static_cast<uint8_t>(comm_.rank() == root ? 100 + root : 0));
      comm_.Wait(comm_.Broadcast(data.data(), bytes, root));
      Expect(data == std::vector<uint8_t>(bytes, static_cast<uint8_t>(100 + root)),
             StrCat("broadcast of ", bytes, " bytes from ", root));
    }
  }

  // Several messages in flight round a ring; each arrives whole and in order.
  void MessagesInOrder(size_t bytes) {
    if (comm_.size() == 1) return;
    const int to = (comm_.rank() + 1) % comm_.size();
    const int from = (comm_.rank() + comm_.size() - 1) % comm_.size();
    constexpr int kMessages = 5;
    std::vector<std::vector<uint8_t>> sent(kMessages), received(kMessages);
    for (int m = 0; m < kMessages; ++m) {
      sent[m].assign(bytes + m, static_cast<uint8_t>(16 * m + comm_.rank()));
      received[m].resize(bytes + m);
      comm_.Send(sent[m].data(), sent[m].size(), to);
    }
    CommHandle last;
    for (int m = 0; m < kMessages; ++m) {
      last = comm_.Recv(received[m].data(), received[m].size(), from);
    }
    comm_.Wait(last);  // completes all that was issued before
    for (int m = 0; m < kMessages; ++m) {
      Expect(received[m] == std::vector<uint8_t>(bytes + m, static_cast<uint8_t>(16 * m + from)),
             StrCat("message ", m, " of ", bytes + m, " bytes from ", from));
    }
  }

  // Ladder's use: two all-reduces in flight, the second issued before the first is waited for;
  // waiting for the second alone completes both.
  void TwoInFlight() {
    constexpr int64_t kCount = 1000;
    std::vector<float> first(kCount, 1.0f), second(kCount, 2.0f);
    comm_.AllReduceSum(first.data(), kCount);
    const CommHandle handle = comm_.AllReduceSum(second.data(), kCount);
    comm_.Poll();
    comm_.Wait(handle);
    const auto n = static_cast<float>(comm_.size());
    Expect(first == std::vector<float>(kCount, n), "first of two all-reduces in flight");
    Expect(second == std::vector<float>(kCount, 2 * n), "second of two all-reduces in flight");
  }

  // A message too large for any buffer on the way arrives while its receiver computes and polls.
  void PollAloneMovesMessages() {
    if (comm_.size() == 1) return;
    constexpr size_t kBytes = size_t{1} << 20;
    std::vector<uint8_t> sent(kBytes, 7), received(kBytes, 0);
    comm_.Send(sent.data(), kBytes, (comm_.rank() + 1) % comm_.size());
    const CommHandle last =
        comm_.Recv(received.data(), kBytes, (comm_.rank() + comm_.size() - 1) % comm_.size());
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    const volatile uint8_t& final_byte = received.back();
    while (final_byte == 0 && std::chrono::steady_clock::now() < end) {
      comm_.Poll();
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // more ranks than cores
    }
    Expect(final_byte == 7, "polling alone does not bring a message in");
    comm_.Wait(last);
    Expect(received == sent, "a message that polling brought is another one");
  }

  void SplitByParity() {
    const int color = comm_.rank() % 2;
    const auto half = comm_.Split(color, -comm_.rank());  // reversed order
    const int members = (comm_.size() + (color == 0 ? 1 : 0)) / 2;
    Expect(half->size() == members, "size of a split group");
    Expect(half->rank() == members - 1 - comm_.rank() / 2, "order of a split group");
    float sum = static_cast<float>(comm_.rank());
    half->Wait(half->AllReduceSum(&sum, 1));
    float expected = 0.0f;
    for (int r = color; r < comm_.size(); r += 2) expected += static_cast<float>(r);
    Expect(sum == expected, "sum within a split group");
  }

  void StatsCount() {
    comm_.TakeStats();
    float value = 1.0f;
    comm_.Wait(comm_.AllReduceSum(&value, 1));
    const CommStats stats = comm_.TakeStats();
    Expect(stats.operations == 1, "one operation is counted as one");
    Expect(stats.exposed_seconds >= 0 && stats.hidden_seconds >= 0, "seconds are not negative");
    Expect((stats.bytes_sent > 0) == (comm_.size() > 1), "bytes are sent to others only");
    Expect(comm_.TakeStats().operations == 0, "taking the statistics resets them");
  }

  std::vector<std::string> TakeBroken() { return std::move(broken_); }

 private:
  Communicator& comm_;
  std::vector<std::string> broken_;
};

inline std::vector<std::string> CheckCommunicatorContract(Communicator& comm) {
  ContractChecker check(comm);
  comm.Wait(CommHandle{});  // the handle of nothing is complete
  // None, one, odd, a decode row, beyond eager and two-shot thresholds (36 KiB, 2 MiB).
  for (const int64_t count : {0, 1, 3, 577, 9216, 524'309}) check.AllReduceInRankOrder(count);
  for (const size_t bytes : {0, 1, 13, 4096, 70'001}) {
    check.AllGather(bytes);
    check.BroadcastFromEach(bytes);
    check.MessagesInOrder(bytes);
  }
  // A decode row, rows that the end of a ring cuts, more than a ring holds.
  for (const bool waits : {false, true}) {
    for (int i = 0; i < 3; ++i) check.RowsInRankOrder(1, 577, waits);
    check.RowsInRankOrder(7, 1001, waits);
    check.RowsInRankOrder(511, 577, waits);
    check.RowsInRankOrder(0, 577, waits);
  }
  check.Expect(comm.NextRows(comm.AllReduceRows(nullptr, 0, 577)).empty(), "rows of nothing");
  check.TwoInFlight();
  check.PollAloneMovesMessages();
  check.SplitByParity();
  check.StatsCount();
  return check.TakeBroken();
}

}  // namespace echelon::testing
