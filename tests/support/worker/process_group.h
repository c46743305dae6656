#pragma once
// ProcessGroup: processes of one host as the ranks of a group, where there is neither MPI nor a
// coordinator: what these two do for a worker group, in small. The ranks meet at a socket that rank
// 0 opens, and share memory as ranks of a host do (worker/comm/group_comm.h). They keep the
// sockets: each rank tells rank 0, and rank 0 the others, that it lives, that it has failed and
// why, that it is done. So a rank that dies, stops, fails or hangs ends all others within a
// deadline, whatever they wait for, with a line to stderr that names it.
//
// The communicator and all calls belong to the rank's thread. One thread beside it watches, and
// ends the process by _exit: nothing is taken down, so nothing waits for who is gone.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/result.h"
#include "tests/support/worker/packet_socket.h"
#include "worker/comm/communicator.h"
#include "worker/comm/long_wait.h"

namespace echelon::testing {

struct ProcessGroupOptions {
  std::string meeting;  // a name of this host, of this group alone (packet_socket.h)
  int rank = 0, size = 1;
  int64_t join_ms = 20'000;   // until all ranks have come
  int64_t lease_ms = 10'000;  // a rank that says nothing for so long is given up
  int64_t step_ms = 60'000;   // what Begin names is over by then
  // Told, by the watching thread, how the group was lost; empty: that ends the process.
  std::function<void(const std::string& how)> lost = {};
};

// How a rank ends that does not end well (as a worker does: worker/control_link.h).
inline constexpr int kRankFailed = 70;     // by itself
inline constexpr int kAnotherFailed = 75;  // or is gone, or answers no more

class ProcessGroup {
 public:
  // Errors: who has not come in time, the same on all ranks that have.
  static Result<std::unique_ptr<ProcessGroup>> Join(const ProcessGroupOptions& options);
  ~ProcessGroup();  // waits for nobody: for others this rank is done

  Communicator& world() { return *world_; }
  const std::string& host() const { return host_; }
  // What this rank computes on, for errors from now on. Collective.
  void Introduce(const std::string& device);
  // From now on the rank is at `what`: "step 3". Over with the next call; "": nothing has to end.
  void Begin(const std::string& what);
  // All ranks are done and do not need each other any more. Collective; nothing after it but the
  // destructor.
  void Leave();
  // Tells the others and ends the process: unless another rank's end turns up within a moment,
  // which may be what this rank's error comes from; then as that.
  [[noreturn]] void Fail(const std::string& why);

 private:
  using Clock = std::chrono::steady_clock;
  struct Peer {
    int rank = 0;
    PacketSocket socket;
    Clock::time_point heard = Clock::now();
    bool done = false;
  };
  struct Card;
  explicit ProcessGroup(const ProcessGroupOptions& options);
  Status MeetAsFirst();
  Status MeetAsOther();
  void UseCards(const std::vector<Card>& cards);
  Status MakeWorld(const std::string& welcome);
  Error Missing() const;
  void Tell(char kind, const std::string& body = "");
  // The watching thread, and what ends it.
  struct Loss {
    int status = 0;
    std::string how;
  };
  void Watch();
  std::optional<Loss> LookAround();
  std::optional<Loss> Hear(Peer& peer);
  std::optional<Loss> CheckStep();
  [[noreturn]] void End(const Loss& loss);
  bool AllDone() const;

  const ProcessGroupOptions options_;
  const std::string host_;
  Clock::time_point join_end_;
  std::vector<Peer> peers_;  // of rank 0 all others, of another rank 0; after joining the watch's
  std::unique_ptr<Communicator> world_;
  std::shared_ptr<const LongWait> long_wait_;
  std::mutex mutex_;
  std::vector<std::string> names_;  // (ranks) guarded by mutex_, as all below
  std::string at_;                  // what has to end
  Clock::time_point at_since_;
  bool leaving_ = false, deserting_ = false;
  std::thread watch_;
};

}  // namespace echelon::testing
