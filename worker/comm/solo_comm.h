#pragma once
// SoloCommunicator: a group of which only this rank is there. Every operation is complete at once;
// the others gather what this rank does, and what else should have come is whatever the buffers
// hold. For timing one rank's steps, whose numbers nobody reads.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "worker/comm/communicator.h"

namespace echelon {

class SoloCommunicator : public Communicator {
 public:
  SoloCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  CommHandle AllReduceSum(float*, int64_t) override { return {}; }
  CommHandle AllReduceRows(float* data, int64_t rows, int64_t) override {
    terms_.assign(static_cast<size_t>(size_), data);
    untaken_ = rows;
    return {};
  }
  CommHandle AllGather(const void* send, void* recv, size_t bytes) override {
    for (int r = 0; r < size_; ++r) {
      std::copy_n(static_cast<const char*>(send), bytes,
                  static_cast<char*>(recv) + static_cast<size_t>(r) * bytes);
    }
    return {};
  }
  CommHandle Broadcast(void*, size_t, int) override { return {}; }
  CommHandle Send(const void*, size_t, int) override { return {}; }
  CommHandle Recv(void*, size_t, int) override { return {}; }
  void Wait(CommHandle) override { untaken_ = 0; }
  SumRows NextRows(CommHandle) override { return {0, std::exchange(untaken_, 0), terms_}; }
  void Poll() override {}
  bool MoveOn() override { return false; }
  std::unique_ptr<Communicator> Split(int, int) override {
    return std::make_unique<SoloCommunicator>(rank_, size_);
  }
  CommStats TakeStats() override { return {}; }

 private:
  const int rank_, size_;
  std::vector<const float*> terms_;  // of the last AllReduceRows
  int64_t untaken_ = 0;              // rows of it
};

}  // namespace echelon
