#pragma once
// The contract of Communicator (worker/comm/communicator.h) as one test body. Every rank of a group
// runs CheckCommunicatorContract with its own endpoint, in a thread or in a process; it returns
// what was broken, one line each, nothing when all is well. Buffers lie in the memory of `backend`,
// which the rank's thread drives; null: in the host's.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/strings.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"

namespace echelon::testing {

// A float of mixed magnitude, so that sums in another order have other bits.
inline float ContractValue(int rank, int64_t i) {
  const auto bits = Philox(7, {static_cast<uint32_t>(rank), static_cast<uint32_t>(i), 0, 0});
  const float unit = static_cast<float>(bits[0] >> 8) / 16777216.0f - 0.5f;
  return unit * static_cast<float>(1 << (bits[1] % 20));
}

// Values where the operations of a communicator find them.
template <typename T>
class Held {
 public:
  Held(Backend* backend, std::vector<T> values) : backend_(backend), values_(std::move(values)) {
    if (backend_ == nullptr) return;
    memory_ = *backend_->Allocate(bytes() + 1);
    if (bytes() > 0) backend_->Upload(values_.data(), memory_->data(), bytes());
  }
  T* data() { return memory_ ? static_cast<T*>(memory_->data()) : values_.data(); }
  size_t bytes() const { return values_.size() * sizeof(T); }
  // What lies there now.
  const std::vector<T>& Read() {
    if (backend_ != nullptr && bytes() > 0) {
      backend_->Download(memory_->data(), values_.data(), bytes());
      backend_->Synchronize();
    }
    return values_;
  }

 private:
  Backend* backend_;
  std::vector<T> values_;
  std::unique_ptr<DeviceBuffer> memory_;  // goes first: copies may still be under way
};

class ContractChecker {
 public:
  ContractChecker(Communicator& comm, Backend* backend) : comm_(comm), backend_(backend) {}

  void Expect(bool condition, const std::string& what) {
    if (!condition) broken_.push_back(StrCat("rank ", comm_.rank(), ": ", what));
  }

  // INVARIANT: the sum is taken in rank order, to the bit, for every size.
  void AllReduceInRankOrder(int64_t count) {
    Held data = Hold(Contribution(count));
    comm_.Wait(comm_.AllReduceSum(data.data(), count));
    Expect(SameBits(data.Read(), SumInRankOrder(count)),
           StrCat("all-reduce of ", count, " values is not the sum in rank order"));
  }

  // The same bits where the caller adds up what it takes; every row once, ascending; then others'
  // messages go on as after any operation. `waits`: it lets the communicator add after all.
  void RowsInRankOrder(int64_t rows, int64_t cols, bool waits) {
    Held data = Hold(Contribution(rows * cols));
    Held before = Hold(std::vector<float>{1.0f}), behind = Hold(std::vector<float>{1.0f});
    comm_.AllReduceSum(before.data(), 1);
    const CommHandle handle = comm_.AllReduceRows(data.data(), rows, cols);
    const CommHandle last = comm_.AllReduceSum(behind.data(), 1);
    std::vector<float> sum;
    int64_t taken = 0;
    while (!waits) {
      const SumRows ready = comm_.NextRows(handle);
      if (ready.empty()) break;
      Expect(ready.begin == taken, StrCat("row ", ready.begin, " follows row ", taken));
      comm_.Poll();
      std::vector<float> added = Floats(ready.terms[0], (ready.end - ready.begin) * cols);
      for (size_t t = 1; t < ready.terms.size(); ++t) {
        const auto term = Floats(ready.terms[t], static_cast<int64_t>(added.size()));
        for (size_t i = 0; i < added.size(); ++i) added[i] += term[i];
      }
      sum.insert(sum.end(), added.begin(), added.end());
      taken = ready.end;
    }
    if (waits) comm_.Wait(handle);
    comm_.Wait(last);
    if (waits) sum = data.Read();
    Expect(waits || taken == rows, StrCat(taken, " of ", rows, " rows were handed out"));
    Expect(SameBits(sum, SumInRankOrder(rows * cols)),
           StrCat("rows (", rows, ", ", cols, ") are not the sum in rank order"));
    const std::vector<float> ones = {static_cast<float>(comm_.size())};
    Expect(before.Read() == ones && behind.Read() == ones, "sums before and behind rows");
  }

  void AllGather(size_t bytes) {
    std::vector<uint8_t> mine(bytes), expected;
    for (size_t i = 0; i < bytes; ++i) mine[i] = static_cast<uint8_t>(31 * comm_.rank() + i);
    for (int r = 0; r < comm_.size(); ++r) {
      for (size_t i = 0; i < bytes; ++i) expected.push_back(static_cast<uint8_t>(31 * r + i));
    }
    Held send = Hold(std::move(mine)), all = Hold(std::vector<uint8_t>(expected.size()));
    comm_.Wait(comm_.AllGather(send.data(), all.data(), bytes));
    Expect(all.Read() == expected, StrCat("all-gather of ", bytes, " bytes is not in rank order"));
  }

  void BroadcastFromEach(size_t bytes) {
    for (int root = 0; root < comm_.size(); ++root) {
      Held data = Hold(
          std::vector<uint8_t>(bytes, static_cast<uint8_t>(comm_.rank() == root ? 100 + root : 0)));
      comm_.Wait(comm_.Broadcast(data.data(), bytes, root));
      Expect(data.Read() == std::vector<uint8_t>(bytes, static_cast<uint8_t>(100 + root)),
             StrCat("broadcast of ", bytes, " bytes from ", root));
    }
  }

  // Several messages in flight round a ring; each arrives whole and in order.
  void MessagesInOrder(size_t bytes) {
    if (comm_.size() == 1) return;
    const int to = (comm_.rank() + 1) % comm_.size();
    const int from = (comm_.rank() + comm_.size() - 1) % comm_.size();
    constexpr int kMessages = 5;
    std::vector<Held<uint8_t>> sent, received;
    for (int m = 0; m < kMessages; ++m) {
      sent.push_back(
          Hold(std::vector<uint8_t>(bytes + m, static_cast<uint8_t>(16 * m + comm_.rank()))));
      received.push_back(Hold(std::vector<uint8_t>(bytes + m)));
      comm_.Send(sent[m].data(), bytes + m, to);
    }
    CommHandle last;
    for (int m = 0; m < kMessages; ++m) {
      last = comm_.Recv(received[m].data(), bytes + m, from);
    }
    comm_.Wait(last);  // completes all that was issued before
    for (int m = 0; m < kMessages; ++m) {
      Expect(received[m].Read() ==
                 std::vector<uint8_t>(bytes + m, static_cast<uint8_t>(16 * m + from)),
             StrCat("message ", m, " of ", bytes + m, " bytes from ", from));
    }
  }

  // Ladder's use: two all-reduces in flight, the second issued before the first is waited for;
  // waiting for the second alone completes both.
  void TwoInFlight() {
    constexpr int64_t kCount = 1000;
    Held first = Hold(std::vector<float>(kCount, 1.0f));
    Held second = Hold(std::vector<float>(kCount, 2.0f));
    comm_.AllReduceSum(first.data(), kCount);
    const CommHandle handle = comm_.AllReduceSum(second.data(), kCount);
    comm_.Poll();
    comm_.Wait(handle);
    const auto n = static_cast<float>(comm_.size());
    Expect(first.Read() == std::vector<float>(kCount, n), "first of two all-reduces in flight");
    Expect(second.Read() == std::vector<float>(kCount, 2 * n),
           "second of two all-reduces in flight");
  }

  // A message too large for any buffer on the way arrives while its receiver computes and polls.
  // Only host memory can be watched: what a device's memory holds is known behind a wait.
  void PollAloneMovesMessages() {
    if (comm_.size() == 1 || backend_ != nullptr) return;
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
    Held sum = Hold(std::vector<float>{static_cast<float>(comm_.rank())});
    half->Wait(half->AllReduceSum(sum.data(), 1));
    float expected = 0.0f;
    for (int r = color; r < comm_.size(); r += 2) expected += static_cast<float>(r);
    Expect(sum.Read()[0] == expected, "sum within a split group");
  }

  void StatsCount() {
    comm_.TakeStats();
    Held value = Hold(std::vector<float>{1.0f});
    comm_.Wait(comm_.AllReduceSum(value.data(), 1));
    const CommStats stats = comm_.TakeStats();
    Expect(stats.operations == 1, "one operation is counted as one");
    Expect(stats.exposed_seconds >= 0 && stats.hidden_seconds >= 0, "seconds are not negative");
    Expect((stats.bytes_sent > 0) == (comm_.size() > 1), "bytes are sent to others only");
    Expect(comm_.TakeStats().operations == 0, "taking the statistics resets them");
  }

  std::vector<std::string> TakeBroken() { return std::move(broken_); }

 private:
  template <typename T>
  Held<T> Hold(std::vector<T> values) const {
    return Held<T>(backend_, std::move(values));
  }
  std::vector<float> Contribution(int64_t count) const {
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = ContractValue(comm_.rank(), i);
    return values;
  }
  std::vector<float> SumInRankOrder(int64_t count) const {
    std::vector<float> sum(count);
    for (int64_t i = 0; i < count; ++i) {
      sum[i] = ContractValue(0, i);
      for (int r = 1; r < comm_.size(); ++r) sum[i] += ContractValue(r, i);
    }
    return sum;
  }
  static bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
  }
  std::vector<float> Floats(const float* from, int64_t count) const {
    if (backend_ == nullptr) return {from, from + count};
    std::vector<float> values(count);
    backend_->Download(from, values.data(), count * sizeof(float));
    backend_->Synchronize();
    return values;
  }

  Communicator& comm_;
  Backend* const backend_;
  std::vector<std::string> broken_;
};

inline std::vector<std::string> CheckCommunicatorContract(Communicator& comm,
                                                          Backend* backend = nullptr) {
  ContractChecker check(comm, backend);
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
