#pragma once
// Staging: small host arrays on their way to the device: copied into page-locked memory at once, so
// that the caller may go on, and from there to the device on the stream. Nothing is overwritten
// before Reset(), which says that the stream has been waited for; until then room is added as it is
// needed, and kept for the next step. One thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/device.h"

namespace echelon::cuda {

class Staging {
 public:
  explicit Staging(Device& device) : device_(device) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Device memory that holds the values when what is enqueued next runs, until Reset(). Null for no
  // values and after a failure of the device.
  template <typename T>
  const T* Put(std::span<const T> values) {
    return static_cast<const T*>(PutBytes(values.data(), values.size_bytes()));
  }
  void Reset();

  // A region: what is put into it lies where it lay when the same sizes, rounded up to powers of
  // two, were put into the region of the same number since Reset(); it is sent together.
  void BeginRegion();
  void RewindRegion();  // the same values will be put again
  void SendRegion();

 private:
  struct Block {
    char* pinned = nullptr;
    DeviceMemory memory;
    size_t used = 0;
  };
  const void* PutBytes(const void* values, size_t bytes);
  bool AddBlock(size_t bytes);

  Device& device_;
  std::vector<Block> blocks_;
  size_t block_ = 0;  // the one in use
  bool in_region_ = false;
  size_t region_ = 0;  // its first block
};

}  // namespace echelon::cuda
