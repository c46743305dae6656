#pragma once
// DeviceCommunicator: collectives of tensors in the devices' memory, in a queue beside the
// backend's stream (kernels/device_link.h): the host waits for nothing, and ops go on meanwhile.
//
// Sums are taken in rank order, to the bit, whatever their size: a wire only carries, and each
// rank adds. Small ones in one shot: all contributions to all ranks, who each add all. Larger ones
// in two: each rank gets its slice of all contributions, adds it and hands the sums on.
//
// Messages wait to be begun with others, because a wire begins a send and a receive that wait for
// each other only together: a ring whose ranks all send first would stand still. They go out
// together at any other operation, wait, Poll() or MoveOn(). So who waits for nothing afterwards
// calls Poll(), and between messages that the other rank awaits together nobody does.
//
// Memory: 16 MiB, and 4 MiB a rank for rows handed out; nothing is allocated later. One thread, the
// backend's. Backend and buffers outlive it. The host communicator makes it, splits it and moves
// on with it.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/result.h"
#include "kernels/backend.h"
#include "kernels/device_link.h"
#include "worker/comm/communicator.h"
#include "worker/comm/device_wire.h"

namespace echelon {

// What a group's operations run in and travel on.
struct DeviceLine {
  std::unique_ptr<DeviceLink> link;
  std::unique_ptr<DeviceWire> wire;  // goes before the link
};

struct DeviceCommOptions {
  Backend* backend = nullptr;
  // Among the ranks of `host`; collective over it. For groups that are split off, too.
  std::function<Result<DeviceLine>(Communicator& host)> connect;
  // The largest contribution that travels whole. Of four ranks each receives 3 times it in one
  // shot, 1.5 times in two: at some 300 GB/s the 1.5 MiB more take 5 us, about what the second
  // shot's launches would.
  size_t one_shot_bytes_max = size_t{1} << 20;
  // Where larger sums are taken, a piece after the other.
  size_t scratch_bytes = size_t{16} << 20;
};

class DeviceCommunicator final : public Communicator {
 public:
  // Collective over `host`.
  static Result<std::unique_ptr<Communicator>> Make(std::unique_ptr<Communicator> host,
                                                    const DeviceCommOptions& options);
  // Of ranks that are connected.
  static Result<std::unique_ptr<Communicator>> Make(std::unique_ptr<Communicator> host,
                                                    const DeviceCommOptions& options,
                                                    DeviceLine line);

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  int hosts() const override { return host_->hosts(); }
  bool on_stream() const override { return true; }
  void Restart() override;
  CommHandle AllReduceSum(float* data, int64_t count) override;
  // All rows are handed out at once.
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) override;
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override;
  CommHandle Broadcast(void* data, size_t bytes, int root) override;
  CommHandle Send(const void* data, size_t bytes, int to) override;
  CommHandle Recv(void* data, size_t bytes, int from) override;
  void Wait(CommHandle handle) override;
  SumRows NextRows(CommHandle handle) override;
  void Poll() override { BeginMessages(); }
  bool MoveOn() override;
  // Ends the process where no wire can be made.
  std::unique_ptr<Communicator> Split(int color, int key) override;
  CommStats TakeStats() override;

 private:
  // Rows of at most so many sums may be in flight: a sub-block's of each part of a step, and as
  // many behind them.
  static constexpr size_t kRowsInFlightMax = 4;
  static constexpr size_t kTermsMax = DeviceLink::kTermsMax;

  struct Pending {
    uint64_t ticket;
    uint64_t place;  // in the link; 0: there is nothing to wait for
  };
  // A sum whose rows may be taken.
  struct Rows {
    uint64_t ticket;
    float* data;
    int64_t rows, cols;
    std::vector<const float*> terms;
    bool taken = false;
    bool is_sum() const { return terms.size() == 1; }
  };

  DeviceCommunicator(std::unique_ptr<Communicator> host, const DeviceCommOptions& options,
                     DeviceLine line)
      : options_(options), host_(std::move(host)), line_(std::move(line)) {}
  Status Allocate();
  CommHandle Issued(uint64_t place);
  void BeginMessages();
  bool GoesWhole(int64_t count) const;
  bool AddsAtOnce() const { return static_cast<size_t>(size()) <= kTermsMax; }
  uint64_t Gather(const void* send, void* recv, size_t bytes);
  uint64_t Pass(std::vector<OutgoingMessage> sends, std::vector<IncomingMessage> recvs);
  std::vector<const float*> Terms(const float* gathered, int64_t count) const;
  uint64_t Add(std::span<const float* const> terms, int64_t count, float* out);
  uint64_t SumIntoData(float* data, int64_t count);
  uint64_t SumWhole(float* data, int64_t count);
  uint64_t SumSlices(float* data, int64_t count);
  // The rows of sums up to `ticket` will not be taken (any more).
  void SumUpTo(uint64_t ticket);
  void JoinUpTo(uint64_t ticket);

  const DeviceCommOptions options_;
  const std::unique_ptr<Communicator> host_;
  std::unique_ptr<DeviceBuffer> scratch_;  // what it holds is used at once, in the link's order
  std::unique_ptr<DeviceBuffer> handed_out_[kRowsInFlightMax];
  size_t turn_ = 0;        // of handed_out_
  const DeviceLine line_;  // of nulls: alone
  uint64_t last_ticket_ = 0;
  std::deque<Pending> pending_;         // ascending tickets
  std::deque<Rows> rows_;               // ascending tickets
  std::vector<OutgoingMessage> sends_;  // not yet begun: the last tickets
  std::vector<IncomingMessage> recvs_;
  CommStats stats_;
};

}  // namespace echelon
