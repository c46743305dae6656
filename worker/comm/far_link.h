#pragma once
// FarLink: messages between ranks that do not share memory. Messages of one tag between two ranks
// are matched in the order they were issued. One thread; a peer's death ends the process.

#include <cstddef>
#include <memory>

namespace echelon {

enum class FarTag { kCollective = 1, kSecondShot = 2, kPoint = 3 };

// Messages issued together and awaited together. Their buffers belong to them until Test() is true.
class FarBatch {
 public:
  virtual ~FarBatch() = default;
  virtual void Send(const void* data, size_t bytes, int to, FarTag tag) = 0;
  virtual void Recv(void* data, size_t bytes, int from, FarTag tag) = 0;
  virtual bool Test() = 0;  // all are done; lets the transport make progress
};

class FarLink {
 public:
  virtual ~FarLink() = default;
  virtual std::unique_ptr<FarBatch> NewBatch() = 0;
  // The link of the group that `color` and `key` make (communicator.h). Collective.
  virtual std::unique_ptr<FarLink> Split(int color, int key) = 0;
};

}  // namespace echelon
