#pragma once
// RankTable: what the group knows of every rank of the present epoch, and the rules of the
// handshake: who may join, and what all ranks must agree on before a step is planned. No sockets,
// no time of its own.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/control.h"
#include "common/result.h"
#include "coordinator/group.h"

namespace echelon {

class RankTable {
 public:
  // `expected_hosts`: one per rank, "" where unknown; for messages.
  RankTable(int world, std::vector<std::string> expected_hosts);

  void Reset();  // a new epoch: nobody has joined; last errors stay
  int world() const { return static_cast<int>(status_.size()); }
  const std::vector<RankStatus>& status() const { return status_; }
  RankStatus& status(int rank) { return status_[rank]; }
  const std::string& peer(int rank) const { return peers_[rank]; }
  // The rank that joined from this peer as `rank`, or false.
  bool IsFrom(uint32_t rank, const std::string& peer) const;

  // The error says why this rank may not join, and is meant for it and for people alike.
  Status Join(uint32_t rank, const std::string& peer, const JoinMessage& message);
  bool AllJoined() const;
  // Marks the rank ready. The error names both ranks that differ and in what.
  Status Ready(int rank, const ReadyMessage& message);
  bool AllReady() const;
  const ReadyMessage& agreed() const { return *ready_message_; }  // once a rank is ready

  std::string OnHost(int rank) const;  // "rank 2 on host n2"
  // "rank 2 on host n2, CUDA device 0 (NVIDIA H200)": with its device, once it is ready
  std::string Where(int rank) const;
  // "2 of 4 ranks joined; not yet: rank 2 (host n2), rank 3 (host n2)"
  std::string DescribeMissing() const;
  // "rank 0: 34.1 MB of 96.4 MB, rank 1: nothing read yet" of the ranks that are not ready
  std::string DescribeLoading() const;
  // "; rank 0 on host n1 has waited 1900 ms for rank 1 on host n2" of those that have waited
  // longest, "; rank 1 on host n2 waits for nobody" of those that are awaited, "; rank 1 on host n2
  // has not been heard for 1500 ms" of those silent for longer than `silent_us`; or nothing.
  std::string DescribeWaits(int64_t now_us, int64_t silent_us) const;

 private:
  std::vector<std::string> expected_hosts_;
  std::vector<RankStatus> status_;
  std::vector<std::string> peers_;  // "" = not joined
  std::optional<ReadyMessage> ready_message_;
  int ready_rank_ = -1;  // whose message that is
};

}  // namespace echelon
