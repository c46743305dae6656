#include "worker/comm/local_comm.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>

#include "common/check.h"
#include "worker/comm/local_state.h"

namespace echelon {

namespace {

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<LocalGroupState> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  CommHandle AllReduceSum(float* data, int64_t count) override {
    CHECK(count >= 0);
    if (size() == 1) return Issue([] { return LocalClock::now(); });
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    return Collective(size(), true, data, bytes,
                      [=](const auto& parts) { SumInRankOrder(parts, data, count); });
  }

  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    return Collective(size(), true, send, bytes, [=](const auto& parts) {
      auto* out = static_cast<std::byte*>(recv);
      for (size_t r = 0; r < parts.size(); ++r) CopyPart(parts[r], out + r * bytes, bytes);
    });
  }

  CommHandle Broadcast(void* data, size_t bytes, int root) override {
    CHECK(0 <= root && root < size());
    const bool is_root = rank_ == root;
    return Collective(1, is_root, data, bytes, [=](const auto& parts) {
      if (!is_root) CopyPart(parts[root], data, bytes);
    });
  }

  CommHandle Send(const void* data, size_t bytes, int to) override {
    CHECK(0 <= to && to < size());
    group_->Put(rank_, to, data, bytes);
    stats_.bytes_sent += bytes;
    return Issue([] { return LocalClock::now(); });
  }

  CommHandle Recv(void* data, size_t bytes, int from) override {
    CHECK(0 <= from && from < size());
    return Issue([=, this] {
      const auto [message, sent] = group_->Take(from, rank_);
      CopyPart(message, data, bytes);
      return sent;
    });
  }

  void Wait(CommHandle handle) override {
    CHECK(handle.ticket < next_operation_);
    while (!pending_.empty() && pending_.front().ticket <= handle.ticket) {
      const Operation operation = std::move(pending_.front());
      pending_.pop_front();
      const auto begin = LocalClock::now();
      const auto arrived = operation.finish();
      stats_.exposed_seconds += Seconds(begin, LocalClock::now());
      stats_.hidden_seconds += Seconds(operation.issued, std::min(arrived, begin));
    }
  }

  void Poll() override {}

  std::unique_ptr<Communicator> Split(int color, int key) override {
    struct Member {
      int color, key, rank;
    };
    const Member mine{color, key, rank_};
    std::vector<Member> all(size());
    const uint64_t split = next_collective_;  // the same on all ranks
    Wait(AllGather(&mine, all.data(), sizeof(Member)));
    std::erase_if(all, [&](const Member& m) { return m.color != color; });
    std::stable_sort(all.begin(), all.end(),
                     [](const Member& a, const Member& b) { return a.key < b.key; });
    const auto me =
        std::find_if(all.begin(), all.end(), [&](const Member& m) { return m.rank == rank_; });
    return std::make_unique<LocalCommunicator>(
        group_->Child(split, color, static_cast<int>(all.size())),
        static_cast<int>(me - all.begin()));
  }

  CommStats TakeStats() override { return std::exchange(stats_, {}); }

 private:
  // finish: completes the operation, returns when its last byte was there.
  struct Operation {
    uint64_t ticket;
    LocalClock::time_point issued;
    std::function<LocalClock::time_point()> finish;
  };
  using Parts = std::vector<LocalBytes>;

  static double Seconds(LocalClock::time_point from, LocalClock::time_point to) {
    return std::max(0.0, std::chrono::duration<double>(to - from).count());
  }

  static void CopyPart(const LocalBytes& part, void* to, size_t bytes) {
    CHECK_MSG(part.size() == bytes, "ranks disagree about a message's size");
    if (bytes > 0) std::memcpy(to, part.data(), bytes);
  }

  static void SumInRankOrder(const Parts& parts, float* out, int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    CopyPart(parts[0], out, bytes);
    for (size_t r = 1; r < parts.size(); ++r) {
      CHECK_MSG(parts[r].size() == bytes, "ranks disagree about a sum's size");
      for (int64_t i = 0; i < count; ++i) {
        float term;
        std::memcpy(&term, parts[r].data() + i * sizeof(float), sizeof(float));
        out[i] += term;
      }
    }
  }

  CommHandle Issue(std::function<LocalClock::time_point()> finish) {
    ++stats_.operations;
    pending_.push_back({next_operation_, LocalClock::now(), std::move(finish)});
    return {next_operation_++};
  }

  CommHandle Collective(int contributors, bool contributes, const void* data, size_t bytes,
                        std::function<void(const Parts&)> read) {
    const uint64_t ticket = next_collective_++;
    if (contributes) {
      group_->Contribute(ticket, rank_, contributors, data, bytes);
      stats_.bytes_sent += bytes * (size() - 1);
    }
    return Issue([=, this, read = std::move(read)] {
      const auto& complete = group_->Await(ticket, contributors);
      const auto arrived = complete.completed;
      read(complete.contributions);
      group_->Done(ticket);
      return arrived;
    });
  }

  const std::shared_ptr<LocalGroupState> group_;
  const int rank_;
  uint64_t next_operation_ = 1;  // 0 is the handle of nothing
  uint64_t next_collective_ = 0;
  std::deque<Operation> pending_;
  CommStats stats_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeLocalCommunicators(int size) {
  CHECK(size > 0);
  auto state = std::make_shared<LocalGroupState>(size);
  std::vector<std::unique_ptr<Communicator>> endpoints;
  for (int r = 0; r < size; ++r) {
    endpoints.push_back(std::make_unique<LocalCommunicator>(state, r));
  }
  return endpoints;
}

}  // namespace echelon
