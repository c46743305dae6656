#include "worker/comm/local_state.h"

#include <cstring>

#include "common/check.h"
#include "worker/comm/local_comm.h"

namespace echelon {

namespace {
LocalBytes Copy(const void* data, size_t bytes) {
  LocalBytes copy(bytes);
  if (bytes > 0) std::memcpy(copy.data(), data, bytes);
  return copy;
}
}  // namespace

LocalGroupState::Collective& LocalGroupState::Open(uint64_t ticket, int contributors) {
  const auto [it, is_new] = collectives_.try_emplace(ticket);
  Collective& open = it->second;
  if (is_new) {
    open.contributions.resize(size_);
    open.missing = contributors;
    open.readers_left = size_;
  }
  return open;
}

void LocalGroupState::Contribute(uint64_t ticket, int rank, int contributors, const void* data,
                                 size_t bytes) {
  LocalBytes copy = Copy(data, bytes);
  const std::lock_guard lock(mutex_);
  Collective& open = Open(ticket, contributors);
  open.contributions[rank] = std::move(copy);
  if (--open.missing > 0) return;
  open.completed = LocalClock::now();
  changed_.notify_all();
}

const LocalGroupState::Collective& LocalGroupState::Await(uint64_t ticket, int contributors) {
  std::unique_lock lock(mutex_);
  Collective& open = Open(ticket, contributors);
  changed_.wait(lock, [&] { return open.missing == 0; });
  return open;
}

void LocalGroupState::Done(uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  const auto it = collectives_.find(ticket);
  CHECK(it != collectives_.end());
  if (--it->second.readers_left == 0) collectives_.erase(it);
}

void LocalGroupState::Put(int from, int to, const void* data, size_t bytes) {
  LocalBytes copy = Copy(data, bytes);
  std::unique_lock lock(mutex_);
  Mailbox& box = Box(from, to);
  changed_.wait(lock,
                [&] { return box.messages.empty() || box.bytes + bytes <= kLocalMailboxBytes; });
  box.bytes += bytes;
  box.messages.emplace_back(std::move(copy), LocalClock::now());
  changed_.notify_all();
}

std::pair<LocalBytes, LocalClock::time_point> LocalGroupState::Take(int from, int to) {
  std::unique_lock lock(mutex_);
  Mailbox& box = Box(from, to);
  changed_.wait(lock, [&] { return !box.messages.empty(); });
  auto message = std::move(box.messages.front());
  box.messages.pop_front();
  box.bytes -= message.first.size();
  changed_.notify_all();
  return message;
}

std::shared_ptr<LocalGroupState> LocalGroupState::Child(uint64_t split, int color, int size) {
  const std::lock_guard lock(mutex_);
  PendingChild& child = children_[{split, color}];
  if (!child.state) child = {std::make_shared<LocalGroupState>(size), size};
  std::shared_ptr<LocalGroupState> state = child.state;
  if (--child.takers_left == 0) children_.erase({split, color});
  return state;
}

}  // namespace echelon
