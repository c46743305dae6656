#pragma once
// StagedCommunicator: a communicator for tensors in a device's memory over one for host memory:
// what an operation reads is copied to the host when it is issued, what it brings is copied to the
// device when it is waited for. The messages are those of the host communicator: the rank at the
// other end may have its tensors in host memory. The way where devices have no wire of their own.
//
// After an error of the device (Backend::Health) it is silent: what memory holds then must not
// reach other ranks, who would take it for the truth. They wait until this rank has said what
// happened and their group ends.
//
// It waits for the backend's ops itself, before it reads their results: one wait of the host at
// each issue and each wait. It copies between host and device, so it has no place within
// Backend::Repeat. One thread, the backend's. The backend outlives it, and so do the buffers their
// operations.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "kernels/backend.h"
#include "worker/comm/communicator.h"

namespace echelon {

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(std::unique_ptr<Communicator> host, Backend& backend);

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  int hosts() const override { return host_->hosts(); }
  bool waits_for_ops() const override { return true; }
  CommHandle AllReduceSum(float* data, int64_t count) override;
  // All rows are handed out at once, as one term: the sum, in data.
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) override;
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override;
  CommHandle Broadcast(void* data, size_t bytes, int root) override;
  CommHandle Send(const void* data, size_t bytes, int to) override;
  CommHandle Recv(void* data, size_t bytes, int from) override;
  void Wait(CommHandle handle) override;
  SumRows NextRows(CommHandle handle) override;
  void SetIdle(std::function<bool()> idle) override { host_->SetIdle(std::move(idle)); }
  void SetArrived(std::function<void(CommHandle)> arrived) override {
    host_->SetArrived(std::move(arrived));
  }
  void Poll() override { host_->Poll(); }
  bool MoveOn() override { return host_->MoveOn(); }
  std::unique_ptr<Communicator> Split(int color, int key) override;
  // The copies are in neither of the times.
  CommStats TakeStats() override { return host_->TakeStats(); }

 private:
  // An operation's tensor on the host, which lives until the operation is complete.
  struct Staged {
    uint64_t ticket = 0;  // the host's operation
    std::unique_ptr<std::byte[]> copy;
    // What a wait brings to the device: the first `bytes` of the copy. Null: nothing.
    void* to = nullptr;
    size_t bytes = 0;
    int64_t rows = 0;  // that NextRows may hand out
  };
  // A copy of what lies at `from`.
  std::unique_ptr<std::byte[]> CopyOf(const void* from, size_t bytes);
  void Bring(const void* from, std::byte* to, size_t bytes);  // to the host
  // Has `issue` begin an operation with the staged copy, and keeps that; nothing once silent.
  template <typename IssueOnHost>
  CommHandle Keep(Staged staged, IssueOnHost issue);
  bool silent() const { return !backend_.Health().ok(); }

  Backend& backend_;
  std::deque<Staged> staged_;  // ascending tickets
  uint64_t handed_out_ = 0;    // the operation whose rows were
  const float* sum_ = nullptr;
  const std::unique_ptr<Communicator> host_;  // goes first: it may still use the copies
};

}  // namespace echelon
