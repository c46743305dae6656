#pragma once
// A stream of the emulated device. Its work, copies included, runs when somebody waits for it and
// no sooner: a host that reads results too early, or writes over what is still to be copied, is
// found out. An eager stream has a thread of its own instead, which runs what it is given at once:
// for ranks that are threads of one program and wait for each other inside their streams.
//
// Driven by one host thread; what it runs may wait for places of other streams.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace echelon::emulation {

class StreamQueue;

// A captured graph: what runs when it is launched.
using Launches = std::vector<std::function<void()>>;

// A capture under way: every stream that takes part, and how much of the others' work is behind
// what is enqueued next in it.
struct Capture {
  using Seen = std::map<StreamQueue*, size_t>;  // operations of each
  StreamQueue* origin = nullptr;
  Launches launches;
  std::map<StreamQueue*, Seen> streams;
};

// What an event stands for: all that was enqueued in a stream before.
struct Place {
  StreamQueue* stream = nullptr;
  uint64_t number = 0;
  std::shared_ptr<Capture> capture;  // where it was recorded in one, then no event of the host's
  Capture::Seen seen;
};

class StreamQueue {
 public:
  StreamQueue();
  ~StreamQueue();

  void EnqueueKernel(std::function<void()> launch);  // or captures it
  void EnqueueGraph(const Launches& graph);
  void EnqueueCopy(std::function<void()> copy);  // nothing that a graph could hold
  // `note` runs at the place, unless that is in a capture.
  Place Record(std::function<void()> note);
  // What is enqueued next runs behind `place`. In a stream that captures nothing a place of a
  // capture makes it part of that.
  void WaitFor(const Place& place);

  void BeginCapture();
  // Nothing where other streams have put into the capture what this one has not waited for.
  std::optional<Launches> EndCapture();

  // Places in the stream: what was enqueued before one has run when ran() reaches it.
  uint64_t end() const;
  uint64_t ran() const;
  void RunTo(uint64_t place);
  void RunOne();  // what comes next, if there is anything: a device would go on by itself

 private:
  void Push(std::function<void()> work);
  void RunFront(std::unique_lock<std::mutex>& lock);
  void RunAll();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  uint64_t ran_ = 0;
  bool ended_ = false;
  std::shared_ptr<Capture> capture_;
  std::thread thread_;  // of an eager stream
};

size_t GraphsCaptured();   // since the program began
size_t KernelsEnqueued();  // since the program began, those of graphs at each of their launches
// Of streams that are made from now on.
void SetEager(bool eager);
// Enqueues, or captures, host code in place of a kernel of somebody else's: `work` may wait for
// other streams where this one is eager, and reaches device memory through CopyDevice.
void EnqueueOn(void* stream, std::function<void()> work);

}  // namespace echelon::emulation
