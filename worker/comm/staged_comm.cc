#include "worker/comm/staged_comm.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

namespace {

std::unique_ptr<std::byte[]> NewCopy(size_t bytes) {
  return std::make_unique_for_overwrite<std::byte[]>(bytes);
}

}  // namespace

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> host, Backend& backend)
    : backend_(backend), host_(std::move(host)) {
  CHECK(!host_->on_stream());
}

void StagedCommunicator::Bring(const void* from, std::byte* to, size_t bytes) {
  if (bytes == 0) return;
  backend_.Download(from, to, bytes);
  backend_.Synchronize();
}

std::unique_ptr<std::byte[]> StagedCommunicator::CopyOf(const void* from, size_t bytes) {
  auto copy = NewCopy(bytes);
  Bring(from, copy.get(), bytes);
  return copy;
}

template <typename IssueOnHost>
CommHandle StagedCommunicator::Keep(Staged staged, IssueOnHost issue) {
  if (silent()) return {};
  const CommHandle handle = issue(staged.copy.get());
  staged.ticket = handle.ticket;
  staged_.push_back(std::move(staged));
  return handle;
}

CommHandle StagedCommunicator::AllReduceSum(float* data, int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  return Keep({.copy = CopyOf(data, bytes), .to = data, .bytes = bytes}, [&](std::byte* copy) {
    return host_->AllReduceSum(reinterpret_cast<float*>(copy), count);
  });
}

CommHandle StagedCommunicator::AllReduceRows(float* data, int64_t rows, int64_t cols) {
  const size_t bytes = static_cast<size_t>(rows * cols) * sizeof(float);
  return Keep({.copy = CopyOf(data, bytes), .to = data, .bytes = bytes, .rows = rows},
              [&](std::byte* copy) {
                return host_->AllReduceRows(reinterpret_cast<float*>(copy), rows, cols);
              });
}

CommHandle StagedCommunicator::AllGather(const void* send, void* recv, size_t bytes) {
  const size_t all = bytes * static_cast<size_t>(size());
  Staged staged{.copy = NewCopy(all + bytes), .to = recv, .bytes = all};
  Bring(send, staged.copy.get() + all, bytes);  // behind what arrives
  return Keep(std::move(staged),
              [&](std::byte* copy) { return host_->AllGather(copy + all, copy, bytes); });
}

CommHandle StagedCommunicator::Broadcast(void* data, size_t bytes, int root) {
  Staged staged;
  if (root == rank()) {
    staged.copy = CopyOf(data, bytes);
  } else {
    staged = {.copy = NewCopy(bytes), .to = data, .bytes = bytes};
  }
  return Keep(std::move(staged),
              [&](std::byte* copy) { return host_->Broadcast(copy, bytes, root); });
}

CommHandle StagedCommunicator::Send(const void* data, size_t bytes, int to) {
  return Keep({.copy = CopyOf(data, bytes)},
              [&](std::byte* copy) { return host_->Send(copy, bytes, to); });
}

CommHandle StagedCommunicator::Recv(void* data, size_t bytes, int from) {
  return Keep({.copy = NewCopy(bytes), .to = data, .bytes = bytes},
              [&](std::byte* copy) { return host_->Recv(copy, bytes, from); });
}

void StagedCommunicator::Wait(CommHandle handle) {
  if (silent()) return;
  host_->Wait(handle);
  bool uploads = false;
  const auto end = std::find_if(staged_.begin(), staged_.end(), [&](const Staged& staged) {
    return staged.ticket > handle.ticket;
  });
  for (auto at = staged_.begin(); at != end; ++at) {
    if (at->to == nullptr || at->bytes == 0) continue;
    backend_.Upload(at->copy.get(), at->to, at->bytes);
    uploads = true;
  }
  if (uploads) backend_.Synchronize();  // the copies have been read
  staged_.erase(staged_.begin(), end);
}

SumRows StagedCommunicator::NextRows(CommHandle handle) {
  if (silent() || handed_out_ == handle.ticket) return {};
  const auto at = std::find_if(staged_.begin(), staged_.end(), [&](const Staged& staged) {
    return staged.ticket == handle.ticket;
  });
  CHECK(at != staged_.end());
  sum_ = static_cast<const float*>(at->to);
  const int64_t rows = at->bytes > 0 ? at->rows : 0;
  Wait(handle);
  handed_out_ = handle.ticket;
  return {0, rows, {&sum_, 1}};
}

std::unique_ptr<Communicator> StagedCommunicator::Split(int color, int key) {
  return std::make_unique<StagedCommunicator>(host_->Split(color, key), backend_);
}

}  // namespace echelon
