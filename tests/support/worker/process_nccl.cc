#include "tests/support/worker/process_nccl.h"

#include <unistd.h>

#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "common/strings.h"
#include "tests/support/worker/process_group.h"

namespace echelon::testing {

struct ProcessNccl::Group {
  std::mutex mutex;
  std::string error;                    // guarded by mutex
  std::unique_ptr<ProcessGroup> ranks;  // guarded by mutex until it is there, then the stream's
};

namespace {

// Long: who gives up first is what is tested, not this.
constexpr int64_t kPatienceMs = 60'000;

using Bytes = std::vector<std::byte>;

}  // namespace

ProcessNccl::ProcessNccl(PlayedDevice device, const std::atomic<const char*>* fault,
                         const std::atomic<bool>* hangs)
    : device_(std::move(device)), fault_(fault), hangs_(hangs) {}

void ProcessNccl::Enqueue(void* stream, std::function<void()> work) const {
  device_.enqueue(stream, [hangs = hangs_, work = std::move(work)] {
    while (hangs != nullptr && *hangs) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    work();
  });
}

Result<NcclId> ProcessNccl::NewId() {
  static std::atomic<int> ids = 0;
  NcclId id;
  const std::string name = StrCat("process-nccl-", getpid(), "-", ++ids);
  std::memcpy(id.bytes.data(), name.c_str(), name.size() + 1);
  return id;
}

NcclOutcome ProcessNccl::Init(const NcclId& id, int size, int rank, NcclComm* comm) {
  const auto group = groups_.emplace_back(std::make_shared<Group>());
  ProcessGroupOptions options;
  options.meeting = id.bytes.data();
  options.rank = rank;
  options.size = size;
  options.join_ms = options.lease_ms = kPatienceMs;
  options.lost = [weak = std::weak_ptr(group)](const std::string& how) {
    const auto lost = weak.lock();
    if (lost == nullptr) return;
    const std::lock_guard lock(lost->mutex);
    lost->error = how;
  };
  // Nobody waits for it: a rank that is not coming would be waited for.
  std::thread([group, options] {
    auto joined = ProcessGroup::Join(options);
    const std::lock_guard lock(group->mutex);
    if (joined.ok()) group->ranks = *std::move(joined);
    if (!joined.ok()) group->error = joined.error().message;
  }).detach();
  *comm = group.get();
  return {NcclOutcome::kInProgress, ""};
}

NcclOutcome ProcessNccl::State(NcclComm comm) {
  if (const char* const fault = fault_ != nullptr ? fault_->load() : nullptr) {
    return {NcclOutcome::kFailed, fault};
  }
  auto* const group = static_cast<Group*>(comm);
  const std::lock_guard lock(group->mutex);
  if (!group->error.empty()) return {NcclOutcome::kFailed, group->error};
  return {group->ranks ? NcclOutcome::kDone : NcclOutcome::kInProgress, ""};
}

NcclOutcome ProcessNccl::AllGather(NcclComm comm, const void* send, void* recv, size_t bytes,
                                   void* stream) {
  Enqueue(stream, [=, this, group = static_cast<Group*>(comm)] {
    Communicator& world = group->ranks->world();
    Bytes mine(bytes), all(bytes * static_cast<size_t>(world.size()));
    device_.copy(mine.data(), send, bytes);
    world.Wait(world.AllGather(mine.data(), all.data(), bytes));
    device_.copy(recv, all.data(), all.size());
  });
  return State(comm);
}

NcclOutcome ProcessNccl::Send(NcclComm comm, const void* data, size_t bytes, int to, void* stream) {
  messages_.push_back({static_cast<Group*>(comm), true, const_cast<void*>(data), bytes, to});
  stream_ = stream;
  return {};
}

NcclOutcome ProcessNccl::Recv(NcclComm comm, void* data, size_t bytes, int from, void* stream) {
  messages_.push_back({static_cast<Group*>(comm), false, data, bytes, from});
  stream_ = stream;
  return {};
}

NcclOutcome ProcessNccl::GroupStart() { return {}; }

NcclOutcome ProcessNccl::GroupEnd() {
  const auto messages = std::exchange(messages_, {});
  if (messages.empty()) return {};
  Enqueue(stream_, [this, messages] { Pass(messages); });
  return State(messages[0].group);
}

void ProcessNccl::Pass(const std::vector<Message>& messages) const {
  Communicator& world = messages[0].group->ranks->world();
  std::vector<Bytes> copies;
  CommHandle last;
  for (const Message& message : messages) {
    Bytes& copy = copies.emplace_back(message.bytes);
    if (!message.sends) continue;
    device_.copy(copy.data(), message.data, message.bytes);
    last = world.Send(copy.data(), message.bytes, message.peer);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].sends) continue;
    last = world.Recv(copies[i].data(), messages[i].bytes, messages[i].peer);
  }
  world.Wait(last);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].sends) continue;
    device_.copy(messages[i].data, copies[i].data(), messages[i].bytes);
  }
}

}  // namespace echelon::testing
