#pragma once
// Contributions: what the ranks of a group add in an all-reduce, on its way. Every rank hands its
// own values to whoever sums them and reads those of all ranks for its own slice, in ascending
// order and at its own pace: out of the outboxes of its host's ranks, without a copy, and as they
// arrived from other hosts. Lives as long as the operation; `data` is read until handed_over().

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/parallel_layout.h"
#include "worker/comm/group_comm.h"

namespace echelon {

class Contributions {
 public:
  // data (count): this rank's. slices (ranks): what each rank sums, of count values: all of them,
  // or parts of which those of a host's ranks cover all.
  Contributions(GroupWires& wires, const float* data, int64_t count, std::span<const Range> slices);

  void Advance();
  bool awaits_other_hosts() const { return far_ != nullptr; }
  // Of the values: how many the ranks of this host were handed, and whether all ranks have all.
  int64_t handed_near() const;
  bool handed_over() const { return !far_ && handed_near() == count_; }

  // The values of the slice behind those that were passed, as many as every rank's lie ready of in
  // one piece, in whole units; a unit that the end of a ring cuts is put together. terms (ranks)
  // are their addresses, in rank order, valid until Pass.
  struct Ready {
    int64_t count = 0;
    std::span<const float* const> terms;
  };
  Ready Look(int64_t unit);
  // Whether nothing of the slice is still to come.
  bool AllLieReady();
  void Pass(int64_t count);
  // Lets writers have the room of what was passed; behind the slice's end, of the whole messages.
  void Release();
  int64_t passed() const { return passed_; }
  bool ended() const { return passed_ == slice_.size(); }
  // The slice was passed and released: other ranks' messages are not looked at any more.
  bool left() const;

 private:
  // One rank's message in its outbox.
  struct Near {
    int rank;
    NearIncoming* from;
    NearMessage message;
    bool checked = false, left = false;
    std::vector<float> cut = {};  // a unit that the ring's end cuts
  };
  void StartNear();
  void StartFar(std::span<const Range> slices);
  int64_t LookNear(Near& near, int64_t unit, int64_t count);
  void LeaveMessage(Near& near);

  GroupWires& wires_;
  const int self_;
  const float* const data_;
  const int64_t count_;
  const Range slice_;
  int64_t passed_ = 0;
  std::optional<NearWrite> write_;
  std::vector<Near> near_;
  std::vector<int> far_ranks_;
  std::unique_ptr<float[]> far_values_;  // (far_ranks_, slice)
  std::unique_ptr<FarBatch> far_;
  std::vector<const float*> terms_;  // (ranks)
};

}  // namespace echelon
