#pragma once
// Staging: small host arrays on their way to the device: copied into page-locked memory at once, so
// that the caller may go on, and from there to the device on the stream. The arrays of a step take
// the places of those of the step before: on the device because the stream keeps the order, in
// page-locked memory because there are two sets of it in turn, a set for a step. Room is added as
// it is needed, and kept. One thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"

namespace echelon::cuda {

class Staging {
 public:
  explicit Staging(Device& device) : device_(device) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Device memory that holds the values when what is enqueued next runs, until the step ends. Null
  // for no values and after a failure of the device.
  template <typename T>
  const T* Put(std::span<const T> values) {
    return static_cast<const T*>(PutBytes(values.data(), values.size_bytes()));
  }
  // The next step begins. The step before the last has been waited for.
  void Turn();

  // A region: what is put into it lies where it lay when the same sizes, rounded up to powers of
  // two, were put into the region of the same number of another step; it is sent together.
  void BeginRegion();
  void RewindRegion();  // the same values will be put again
  void SendRegion();

 private:
  struct Block {
    char* pinned = nullptr;  // kMarksMax times the memory's bytes: a set after the other
    DeviceMemory memory;
    size_t used = 0;
    char* Pinned(size_t set) const { return pinned + set * memory.bytes(); }
  };
  const void* PutBytes(const void* values, size_t bytes);
  bool AddBlock(size_t bytes);

  Device& device_;
  std::vector<Block> blocks_;
  size_t set_ = 0;    // of page-locked memory: this step's
  size_t block_ = 0;  // the one in use
  bool in_region_ = false;
  size_t region_ = 0;  // its first block
};

}  // namespace echelon::cuda
