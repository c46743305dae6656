#pragma once
// ProcessNccl: NCCL played between processes of one host, each with devices of its own (emulated
// ones): the ranks that were given an id meet as a process group (process_group.h), whose
// communicator carries the bytes, in the stream that an operation was enqueued on. A rank that is
// gone is an error of the communicator that comes up later, as NCCL's are; operations that wait for
// it do not end. Between threads: PlayedFabric.

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "tests/support/worker/played_nccl.h"
#include "worker/comm/nccl_library.h"

namespace echelon::testing {

class ProcessNccl final : public NcclLibrary {
 public:
  // `fault`: an error that all communicators are in while it is not null; `hangs`: no operation
  // that a stream comes to ends while it is set. Each may be null itself.
  explicit ProcessNccl(PlayedDevice device, const std::atomic<const char*>* fault = nullptr,
                       const std::atomic<bool>* hangs = nullptr);

  int Version() override { return 22809; }
  Result<NcclId> NewId() override;
  NcclOutcome Init(const NcclId& id, int size, int rank, NcclComm* comm) override;
  NcclOutcome State(NcclComm comm) override;
  NcclOutcome AllGather(NcclComm comm, const void* send, void* recv, size_t bytes,
                        void* stream) override;
  NcclOutcome Send(NcclComm comm, const void* data, size_t bytes, int to, void* stream) override;
  NcclOutcome Recv(NcclComm comm, void* data, size_t bytes, int from, void* stream) override;
  NcclOutcome GroupStart() override;
  NcclOutcome GroupEnd() override;

 private:
  struct Group;
  struct Message {
    Group* group = nullptr;
    bool sends = false;
    void* data = nullptr;
    size_t bytes = 0;
    int peer = 0;
  };
  void Enqueue(void* stream, std::function<void()> work) const;
  void Pass(const std::vector<Message>& messages) const;  // on the stream

  const PlayedDevice device_;
  const std::atomic<const char*>* const fault_;
  const std::atomic<bool>* const hangs_;
  std::vector<std::shared_ptr<Group>> groups_;
  std::vector<Message> messages_;  // of the group of calls that is open
  void* stream_ = nullptr;
};

}  // namespace echelon::testing
