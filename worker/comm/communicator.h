#pragma once
// Communicator: a FIFO of collectives among the ranks of one group. Every call returns a handle, a
// point in that queue: the operation may use its buffers until Wait(handle) returned, and waiting
// for a handle completes everything issued before it. All ranks issue the same operations in the
// same order. One thread drives a communicator. A peer's death ends the process (the coordinator
// relaunches the group): there are no error codes to forget.
//
// INVARIANT: sums are taken in rank order 0, 1, ..., size-1 for every element, whatever the size
// of the message, so that all ranks hold the same bits and a row's bits do not depend on the batch.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace echelon {

struct CommHandle {
  uint64_t ticket = 0;  // 0: nothing was issued; always complete
};

// Rows [begin, end) of a sum of matrices that nobody has added yet: row begin + i is row i of
// terms[0], plus that of terms[1] and so on, in this order. Rows lie one behind the other.
struct SumRows {
  int64_t begin = 0, end = 0;
  std::span<const float* const> terms;
  bool empty() const { return begin == end; }
};

// Seconds and bytes since the last TakeStats(), for the step's timings. An operation is in flight
// from its issue until its last part has arrived, which is noticed at the next Poll() that looks,
// or in the next wait of this rank, whatever it waits for.
struct CommStats {
  double exposed_seconds = 0.0;  // blocked in Wait
  double hidden_seconds = 0.0;   // an operation or more in flight, while the rank did not wait
  uint64_t bytes_sent = 0;
  uint64_t operations = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Ranks of one host exchange through shared memory: what they pass costs their own time.
  virtual int hosts() const { return 1; }

  // Whether its buffers are memory of a device and its operations take their place in the stream of
  // the backend that it was made with: an operation reads what ops enqueued before it write, and
  // Wait and NextRows hold up ops enqueued afterwards, not the host. Else buffers are host memory:
  // ops are to be done before an operation is issued, and when Wait returns it is complete.
  virtual bool on_stream() const { return false; }
  // Whether it waits itself for the ops whose results it reads, or that read what it handed out:
  // callers need not (FinishFor).
  virtual bool waits_for_ops() const { return on_stream(); }
  // A step that repeats (Backend::Repeat) begins: from here on operations use the same memory as
  // after the last call. Nothing is in flight. Collective.
  virtual void Restart() {}

  virtual CommHandle AllReduceSum(float* data, int64_t count) = 0;  // in place
  // As AllReduceSum of data (rows, cols) that the caller may add up in a pass of its own: it takes
  // the terms by NextRows; or waits, and the sum lies in data.
  virtual CommHandle AllReduceRows(float* data, int64_t rows, int64_t cols) = 0;
  // recv (size * bytes): the ranks' contributions in rank order. On a stream `send` may be this
  // rank's place in it.
  virtual CommHandle AllGather(const void* send, void* recv, size_t bytes) = 0;
  virtual CommHandle Broadcast(void* data, size_t bytes, int root) = 0;
  // Messages between two ranks arrive in the order they were sent. Sizes must agree, as those of
  // collectives must: a rank that is sent another size than it expects ends with an error.
  virtual CommHandle Send(const void* data, size_t bytes, int to) = 0;
  virtual CommHandle Recv(void* data, size_t bytes, int from) = 0;

  virtual void Wait(CommHandle handle) = 0;
  // Waits for more rows of an AllReduceRows; ascending, none when it is complete. The terms, where
  // the ranks share the summing out the sum alone, are valid until the next call, which gives them
  // back: call it until there are none. Neither this handle nor a later one was waited for.
  virtual SumRows NextRows(CommHandle handle) = 0;
  // What a wait does, again and again, while what it waits for is not there; false: there is
  // nothing to do (any more), and the wait pauses. It takes about a microsecond and calls no
  // communicator.
  virtual void SetIdle(std::function<bool()> /*idle*/) {}
  // Called as an operation is seen to be complete, with its handle; it calls no communicator.
  virtual void SetArrived(std::function<void(CommHandle)> /*arrived*/) {}
  // Lets the transport make progress, often where bytes in flight may need it, now and then where
  // only the time of their arrival is to be known; cheap enough for calls every microsecond, from
  // between the pieces of an op (Backend::SetTurn).
  virtual void Poll() = 0;
  // For a rank that waits for something else than a message: moves all its communicators on. False
  // when nothing is under way any more.
  virtual bool MoveOn() = 0;
  // Ranks with the same color form a group, ordered by key. Collective over this communicator.
  virtual std::unique_ptr<Communicator> Split(int color, int key) = 0;
  virtual CommStats TakeStats() = 0;
};

}  // namespace echelon
