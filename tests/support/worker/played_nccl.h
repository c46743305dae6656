#pragma once
// PlayedNccl: NCCL among threads of one program. What an operation does runs on the stream it was
// enqueued on and waits there for the other ranks, as NCCL's kernels do: a send is over when its
// receive has come, those of a group are begun together, and operations of a communicator that
// never meet are found out by a time limit.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "worker/comm/nccl_library.h"

namespace echelon::testing {

// How streams and device memory are reached; by default a stream runs at once and memory is the
// host's.
struct PlayedDevice {
  std::function<void(void* stream, std::function<void()> work)> enqueue =
      [](void*, const std::function<void()>& work) { work(); };
  std::function<void(void* to, const void* from, size_t bytes)> copy = {};  // empty: memcpy
};

// What the ranks' libraries have in common.
class PlayedFabric {
 public:
  PlayedFabric();
  ~PlayedFabric();
  // A library for a rank's thread, which says that it is of this version.
  std::unique_ptr<NcclLibrary> Library(PlayedDevice device = {}, int version = 22809);
  // From now on all communicators are in this error.
  void Fail(const char* error) { error_ = error; }
  // Messages that have arrived.
  uint64_t messages() const;

  struct Shared;

 private:
  friend class PlayedNccl;
  std::atomic<const char*> error_ = nullptr;
  std::unique_ptr<Shared> shared_;
};

}  // namespace echelon::testing
