#pragma once
// CudaMailboxes: Mailboxes over mail.h's kernels. Its memory is mapped by the other ranks, theirs
// here.

#include <memory>
#include <vector>

#include "kernels/cuda/cuda_link.h"
#include "kernels/cuda/mail.h"
#include "kernels/device_link.h"

namespace echelon::cuda {

class CudaMailboxes final : public Mailboxes {
 public:
  static Result<std::unique_ptr<Mailboxes>> Create(CudaLink& link, const MailboxOptions& options);
  ~CudaMailboxes() override;

  const PeerHandle& handle() const override { return handle_; }
  Status Connect(std::span<const PeerHandle> of_ranks) override;
  Status Try() override;
  void Disconnect() override {
    mapped_.clear();
    mapped_elsewhere_ = false;
  }
  Status Pass(std::span<const OutgoingMessage> sends, std::span<const IncomingMessage> recvs,
              void* stream) override;
  Status AllGather(const void* send, void* recv, size_t bytes, void* stream) override;
  std::optional<Unanswered> unanswered() const override;

 private:
  CudaMailboxes(CudaLink& link, DeviceMemory memory);

  CudaLink& link_;
  DeviceMemory memory_;
  DeviceMemory tried_;  // what Try gathered; to free it would wait for other ranks' kernels
  PeerHandle handle_;
  MailParams params_ = {};  // no messages
  std::vector<std::unique_ptr<DeviceBuffer>> mapped_;
  bool mapped_elsewhere_ = false;  // by other processes
};

}  // namespace echelon::cuda
