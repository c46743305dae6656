#pragma once
// TimedBackend: a backend that tells an observer when each op of another one began and ended. Used
// by traces only; a backend that is not wrapped pays nothing. Every op is waited for, so that its
// time is its own: on a device with a stream of its own, ops no longer overlap. The same thread and
// the same lifetime rules as the backend inside, whose bits it leaves alone.

#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace echelon {

struct OpTime {
  const char* op = "";               // the method in snake case, of static storage
  const void* subject = nullptr;     // the Weight or the vector of a norm that it reads, or null
  int layer = -1;                    // of this rank, where the op knows it
  int64_t rows = 0;                  // of the activations
  int64_t begin_ns = 0, end_ns = 0;  // std::chrono::steady_clock
};

class OpObserver {
 public:
  virtual ~OpObserver() = default;
  virtual void OnOp(const OpTime& time) = 0;  // on the thread that drives the backend
};

// `observer` outlives the backend.
std::unique_ptr<Backend> MakeTimedBackend(std::unique_ptr<Backend> inner, OpObserver& observer);

}  // namespace echelon
