#pragma once
// GroupCommunicator: the one implementation of Communicator. Ranks of one host exchange through
// shared memory (near_group.h), ranks of different hosts through a FarLink (MPI); threads as ranks
// are one host without a link, and without shared memory every rank is a host of its own.
//
// An all-reduce is shared out in one of three ways, chosen by size and hosts alone (sum_share.h).
// What is exchanged are always the ranks' own contributions, never sums of some of them, so that
// whoever adds can add in rank order: the sum's bits do not depend on hosts or sizes.

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "worker/comm/communicator.h"
#include "worker/comm/far_link.h"
#include "worker/comm/near_group.h"
#include "worker/comm/progress.h"

namespace echelon {

// The ranks of a group and who of them shares memory with whom.
struct GroupMembers {
  // host (ranks): equal for ranks that share memory; seat (ranks): their bells; of_world (ranks):
  // their numbers in the world, empty where the group is the world.
  GroupMembers(int rank, std::vector<int> host, std::vector<int> seat,
               std::span<const int> of_world = {});

  int size() const { return static_cast<int>(host.size()); }
  bool IsNear(int other) const { return host[other] == host[rank]; }

  int rank;  // this one
  std::vector<int> host, seat;
  std::vector<int> index_on_host, ranks_on_host;  // (ranks)
  std::vector<int> near;                          // ranks of this host, this one among them
  std::vector<int> others;                        // without this one, by their numbers in the world
  int hosts = 0;
  int ranks_per_host_max = 0;
};

// What operations of a group work with.
struct GroupWires {
  GroupMembers members;
  std::unique_ptr<NearGroup> near;   // null: alone on this host
  std::unique_ptr<FarLink> far;      // null: threads as ranks
  uint64_t second_shots_issued = 0;  // reductions whose sums travel between hosts
  uint64_t second_shots_posted = 0;
  uint64_t bytes_sent = 0;
};

class Reduction;

class GroupOperation {
 public:
  virtual ~GroupOperation() = default;
  virtual bool Advance() = 0;  // true when it is complete
  virtual bool awaits_other_hosts() const = 0;
};

class GroupCommunicator final : public Communicator, private Progressing {
 public:
  // segment: shared by all ranks on this rank's host, null where it is alone.
  GroupCommunicator(std::shared_ptr<Progress> progress, GroupMembers members,
                    std::shared_ptr<SharedSegment> segment, std::unique_ptr<FarLink> far);
  ~GroupCommunicator() override;

  int rank() const override { return wires_.members.rank; }
  int size() const override { return wires_.members.size(); }
  int hosts() const override { return wires_.members.hosts; }
  CommHandle AllReduceSum(float* data, int64_t count) override;
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) override;
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override;
  CommHandle Broadcast(void* data, size_t bytes, int root) override;
  CommHandle Send(const void* data, size_t bytes, int to) override;
  CommHandle Recv(void* data, size_t bytes, int from) override;
  void Wait(CommHandle handle) override;
  SumRows NextRows(CommHandle handle) override;
  void SetIdle(std::function<bool()> idle) override { idle_ = std::move(idle); }
  void SetArrived(std::function<void(CommHandle)> arrived) override {
    arrived_ = std::move(arrived);
  }
  void Poll() override;
  bool MoveOn() override;
  std::unique_ptr<Communicator> Split(int color, int key) override;
  CommStats TakeStats() override;

 private:
  struct Pending {
    uint64_t ticket;
    std::unique_ptr<GroupOperation> operation;  // null: complete
    Reduction* rows = nullptr;                  // the operation, where its rows may be taken
    bool arrived = false;
  };
  CommHandle Issue(std::unique_ptr<GroupOperation> operation, size_t bytes,
                   Reduction* rows = nullptr);
  // The rows of operations up to `ticket` will not be taken.
  void SumUpTo(uint64_t ticket);
  void Advance() override;
  bool in_flight() const override { return !pending_.empty(); }
  bool awaits_other_hosts() const override;
  bool IsComplete(CommHandle handle) const {
    return pending_.empty() || pending_.front().ticket > handle.ticket;
  }
  void CountHidden();

  const std::shared_ptr<Progress> progress_;
  GroupWires wires_;
  std::function<bool()> idle_;
  std::function<void(CommHandle)> arrived_;
  uint64_t last_ticket_ = 0;
  uint64_t last_summed_ = 0;      // of the operations whose rows were not taken
  std::deque<Pending> pending_;   // ascending tickets
  int in_flight_ = 0;             // of them, those that have not arrived
  double in_flight_since_ = 0.0;  // ComputeSeconds() when something was in flight again
  size_t bytes_in_flight_ = 0;    // issued since nothing was in flight
  double polled_at_ = 0.0;
  CommStats stats_;
};

// A segment that rank `leader` creates and the ranks of `over` that name it map; null for all of
// them if one could not. bytes 0: takes part, needs none. Collective over `over`.
struct SharedByRanks {
  std::shared_ptr<SharedSegment> segment;
  std::vector<bool> failed;  // (ranks of over): all those of a segment that one could not map
  std::string problem;       // why this rank could not; "" = it could
};
SharedByRanks ShareSegment(Communicator& over, int leader, size_t bytes);

}  // namespace echelon
