#include "tests/support/worker/played_nccl.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "common/check.h"

namespace echelon::testing {

namespace {

using Bytes = std::vector<std::byte>;
constexpr std::chrono::seconds kPatience{30};

}  // namespace

struct PlayedFabric::Shared {
  // Messages from one rank to another of a group, in their order; taken ones count on.
  struct Lane {
    std::deque<Bytes> sent;
    uint64_t sent_total = 0, taken_total = 0;
  };
  std::mutex mutex;
  std::condition_variable changed;
  uint32_t ids = 0;
  std::map<uint32_t, int> joined;                        // ranks of a group
  std::map<std::tuple<uint32_t, int, int>, Lane> lanes;  // group, from, to

  template <typename Done>
  void WaitFor(std::unique_lock<std::mutex>& lock, Done done) {
    CHECK_MSG(changed.wait_for(lock, kPatience, done), "ranks wait for each other on the device");
  }
};

namespace {

struct PlayedComm {
  uint32_t group = 0;
  int rank = 0, size = 0;
};

struct Transfer {
  PlayedComm* comm = nullptr;
  bool sends = false;
  void* data = nullptr;
  size_t bytes = 0;
  int peer = 0;
};

}  // namespace

class PlayedNccl final : public NcclLibrary {
 public:
  PlayedNccl(PlayedFabric& fabric, PlayedDevice device, int version)
      : fabric_(fabric), shared_(*fabric.shared_), device_(std::move(device)), version_(version) {}

  int Version() override { return version_; }
  Result<NcclId> NewId() override {
    const std::lock_guard lock(shared_.mutex);
    NcclId id;
    ++shared_.ids;
    std::memcpy(id.bytes.data(), &shared_.ids, sizeof(shared_.ids));
    return id;
  }
  NcclOutcome Init(const NcclId& id, int size, int rank, NcclComm* comm) override {
    auto made = std::make_unique<PlayedComm>();
    std::memcpy(&made->group, id.bytes.data(), sizeof(made->group));
    made->rank = rank;
    made->size = size;
    *comm = made.get();
    comms_.push_back(std::move(made));
    const std::lock_guard lock(shared_.mutex);
    ++shared_.joined[comms_.back()->group];
    return {NcclOutcome::kInProgress, ""};
  }
  NcclOutcome State(NcclComm comm) override {
    if (const char* const error = fabric_.error_) return {NcclOutcome::kFailed, error};
    const std::lock_guard lock(shared_.mutex);
    const PlayedComm& asked = Of(comm);
    const bool all = shared_.joined[asked.group] == asked.size;
    return {all ? NcclOutcome::kDone : NcclOutcome::kInProgress, ""};
  }
  NcclOutcome AllGather(NcclComm comm, const void* send, void* recv, size_t bytes,
                        void* stream) override {
    PlayedComm& own = Of(comm);
    auto* const out = static_cast<std::byte*>(recv);
    std::byte* const mine = out + static_cast<size_t>(own.rank) * bytes;
    std::vector<Transfer> transfers;
    for (int rank = 0; rank < own.size; ++rank) {
      if (rank == own.rank) continue;
      transfers.push_back({&own, true, const_cast<void*>(send), bytes, rank});
      transfers.push_back({&own, false, out + static_cast<size_t>(rank) * bytes, bytes, rank});
    }
    device_.enqueue(stream, [=, this] {
      if (send != mine) Copy(mine, send, bytes);
      Run(transfers);
    });
    return {NcclOutcome::kInProgress, ""};
  }
  NcclOutcome Send(NcclComm comm, const void* data, size_t bytes, int to, void* stream) override {
    return Add({&Of(comm), true, const_cast<void*>(data), bytes, to}, stream);
  }
  NcclOutcome Recv(NcclComm comm, void* data, size_t bytes, int from, void* stream) override {
    return Add({&Of(comm), false, data, bytes, from}, stream);
  }
  NcclOutcome GroupStart() override {
    CHECK(!std::exchange(in_group_, true));
    return {};
  }
  NcclOutcome GroupEnd() override {
    CHECK(std::exchange(in_group_, false));
    if (group_.empty()) return {};
    device_.enqueue(stream_, [this, group = std::exchange(group_, {})] { Run(group); });
    return {NcclOutcome::kInProgress, ""};
  }

 private:
  static PlayedComm& Of(NcclComm comm) { return *static_cast<PlayedComm*>(comm); }

  NcclOutcome Add(const Transfer& transfer, void* stream) {
    CHECK(in_group_);
    group_.push_back(transfer);
    stream_ = stream;
    return {};
  }

  void Copy(void* to, const void* from, size_t bytes) const {
    if (device_.copy) {
      device_.copy(to, from, bytes);
    } else {
      std::memcpy(to, from, bytes);
    }
  }

  // On the stream. Over when all have met their other ends.
  void Run(const std::vector<Transfer>& transfers) const {
    for (const Transfer& one : transfers) {
      if (!one.sends) continue;
      Bytes bytes(one.bytes);
      Copy(bytes.data(), one.data, one.bytes);
      const std::lock_guard lock(shared_.mutex);
      PlayedFabric::Shared::Lane& lane = LaneOf(one);
      lane.sent.push_back(std::move(bytes));
      ++lane.sent_total;
      shared_.changed.notify_all();
    }
    for (const Transfer& one : transfers) {
      if (one.sends) continue;
      std::unique_lock lock(shared_.mutex);
      PlayedFabric::Shared::Lane& lane = LaneOf(one);
      shared_.WaitFor(lock, [&] { return !lane.sent.empty(); });
      const Bytes bytes = std::move(lane.sent.front());
      lane.sent.pop_front();
      ++lane.taken_total;
      shared_.changed.notify_all();
      lock.unlock();
      CHECK_MSG(bytes.size() == one.bytes, "a message of another size than its receiver's");
      Copy(one.data, bytes.data(), one.bytes);
    }
    for (const Transfer& one : transfers) {
      if (!one.sends) continue;
      std::unique_lock lock(shared_.mutex);
      const PlayedFabric::Shared::Lane& lane = LaneOf(one);
      shared_.WaitFor(lock, [&] { return lane.taken_total == lane.sent_total; });
    }
  }
  PlayedFabric::Shared::Lane& LaneOf(const Transfer& one) const {
    const int from = one.sends ? one.comm->rank : one.peer;
    const int to = one.sends ? one.peer : one.comm->rank;
    return shared_.lanes[{one.comm->group, from, to}];
  }

  PlayedFabric& fabric_;
  PlayedFabric::Shared& shared_;
  const PlayedDevice device_;
  const int version_;
  std::deque<std::unique_ptr<PlayedComm>> comms_;
  bool in_group_ = false;
  std::vector<Transfer> group_;
  void* stream_ = nullptr;
};

PlayedFabric::PlayedFabric() : shared_(std::make_unique<Shared>()) {}
PlayedFabric::~PlayedFabric() = default;

uint64_t PlayedFabric::messages() const {
  const std::lock_guard lock(shared_->mutex);
  uint64_t sum = 0;
  for (const auto& [key, lane] : shared_->lanes) sum += lane.taken_total;
  return sum;
}

std::unique_ptr<NcclLibrary> PlayedFabric::Library(PlayedDevice device, int version) {
  return std::make_unique<PlayedNccl>(*this, std::move(device), version);
}

}  // namespace echelon::testing
