#include "worker/comm/staged_comm.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

namespace {

std::unique_ptr<std::byte[]> NewCopy(size_t bytes) {
  return std::make_unique_for_overwrite<std::byte[]>(bytes);
}

float* Floats(const std::unique_ptr<std::byte[]>& copy) {
  return reinterpret_cast<float*>(copy.get());
}

}  // namespace

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> host, Backend& backend)
    : backend_(backend), host_(std::move(host)) {
  CHECK(!host_->on_stream());
}

std::unique_ptr<std::byte[]> StagedCommunicator::CopyOf(const void* from, size_t bytes) {
  auto copy = NewCopy(bytes);
  if (bytes > 0) {
    backend_.Download(from, copy.get(), bytes);
    backend_.Synchronize();
  }
  return copy;
}

CommHandle StagedCommunicator::Keep(CommHandle handle, Staged staged) {
  staged.ticket = handle.ticket;
  staged_.push_back(std::move(staged));
  return handle;
}

CommHandle StagedCommunicator::AllReduceSum(float* data, int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  Staged staged{.copy = CopyOf(data, bytes), .to = data, .bytes = bytes};
  const CommHandle handle = host_->AllReduceSum(Floats(staged.copy), count);
  return Keep(handle, std::move(staged));
}

CommHandle StagedCommunicator::AllReduceRows(float* data, int64_t rows, int64_t cols) {
  const size_t bytes = static_cast<size_t>(rows * cols) * sizeof(float);
  Staged staged{.copy = CopyOf(data, bytes), .to = data, .bytes = bytes, .rows = rows};
  const CommHandle handle = host_->AllReduceRows(Floats(staged.copy), rows, cols);
  return Keep(handle, std::move(staged));
}

CommHandle StagedCommunicator::AllGather(const void* send, void* recv, size_t bytes) {
  const size_t all = bytes * static_cast<size_t>(size());
  Staged staged{.copy = NewCopy(all + bytes), .to = recv, .bytes = all};
  std::byte* const own = staged.copy.get() + all;  // behind what arrives
  if (bytes > 0) {
    backend_.Download(send, own, bytes);
    backend_.Synchronize();
  }
  const CommHandle handle = host_->AllGather(own, staged.copy.get(), bytes);
  return Keep(handle, std::move(staged));
}

CommHandle StagedCommunicator::Broadcast(void* data, size_t bytes, int root) {
  Staged staged;
  if (root == rank()) {
    staged.copy = CopyOf(data, bytes);
  } else {
    staged = {.copy = NewCopy(bytes), .to = data, .bytes = bytes};
  }
  const CommHandle handle = host_->Broadcast(staged.copy.get(), bytes, root);
  return Keep(handle, std::move(staged));
}

CommHandle StagedCommunicator::Send(const void* data, size_t bytes, int to) {
  Staged staged{.copy = CopyOf(data, bytes)};
  const CommHandle handle = host_->Send(staged.copy.get(), bytes, to);
  return Keep(handle, std::move(staged));
}

CommHandle StagedCommunicator::Recv(void* data, size_t bytes, int from) {
  Staged staged{.copy = NewCopy(bytes), .to = data, .bytes = bytes};
  const CommHandle handle = host_->Recv(staged.copy.get(), bytes, from);
  return Keep(handle, std::move(staged));
}

void StagedCommunicator::Wait(CommHandle handle) {
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
  if (handed_out_ == handle.ticket) return {};
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
