#pragma once
// The state that the endpoints of one local group share: open collectives by ticket, mailboxes by
// pair of ranks, groups being split off. Internal to worker/comm. All methods are safe to call from
// any of the group's threads.

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace echelon {

using LocalClock = std::chrono::steady_clock;
using LocalBytes = std::vector<std::byte>;

class LocalGroupState {
 public:
  explicit LocalGroupState(int size) : size_(size), mailboxes_(size_t(size) * size) {}
  int size() const { return size_; }

  // One collective: what each rank brought, complete when all that bring something have. Read
  // without the lock once complete: nothing changes it any more.
  struct Collective {
    std::vector<LocalBytes> contributions;
    int missing = 0;
    int readers_left = 0;
    LocalClock::time_point completed;
  };
  // `contributors`: ranks that bring something, the same on all ranks (size() or, broadcast, 1).
  void Contribute(uint64_t ticket, int rank, int contributors, const void* data, size_t bytes);
  // Blocks until complete. Every rank awaits every collective once and then calls Done.
  const Collective& Await(uint64_t ticket, int contributors);
  void Done(uint64_t ticket);

  void Put(int from, int to, const void* data, size_t bytes);
  // The oldest message and when it was sent.
  std::pair<LocalBytes, LocalClock::time_point> Take(int from, int to);

  // The state of the group that (split, color) makes; the first to ask creates it.
  std::shared_ptr<LocalGroupState> Child(uint64_t split, int color, int size);

 private:
  struct Mailbox {
    std::deque<std::pair<LocalBytes, LocalClock::time_point>> messages;
    size_t bytes = 0;
  };
  Collective& Open(uint64_t ticket, int contributors);
  Mailbox& Box(int from, int to) { return mailboxes_[size_t(from) * size_ + to]; }

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Collective> collectives_;
  std::vector<Mailbox> mailboxes_;
  struct PendingChild {
    std::shared_ptr<LocalGroupState> state;
    int takers_left = 0;
  };
  std::map<std::pair<uint64_t, int>, PendingChild> children_;
};

}  // namespace echelon
