#pragma once
// Memory of the backends that live in the host's own: aligned blocks, and how much is left.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/result.h"
#include "kernels/backend.h"

namespace echelon {

// Starts of vectors and cache lines; a 512-bit load never crosses a line.
inline constexpr size_t kHostAlignment = 64;
// Blocks of at least this take 2 MiB pages where the system gives them: fewer TLB misses while
// weights stream through (measured: a third more read bandwidth on one thread).
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// An owned, aligned block of host memory. Movable, not copyable.
class HostBlock {
 public:
  HostBlock() = default;
  // Null data() when there is no memory. `zero` fills with zeros.
  explicit HostBlock(size_t bytes, bool zero = false);
  ~HostBlock();
  HostBlock(HostBlock&& other) noexcept;
  HostBlock& operator=(HostBlock&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// A HostBlock or a ResourceExhausted error that says how much of what was asked for.
Result<HostBlock> AllocateHost(size_t bytes, const char* what, bool zero = false);

// Part of a block that several share; the block is freed with its last piece.
struct HostPiece {
  std::shared_ptr<HostBlock> block;
  std::byte* data = nullptr;  // kHostAlignment
  size_t bytes = 0;
};

// Cuts pieces from large blocks, so that matrices of less than 2 MiB lie on huge pages too, one
// after the other as a step reads them. One thread.
class HostArena {
 public:
  Result<HostPiece> Take(size_t bytes, const char* what);

 private:
  std::shared_ptr<HostBlock> block_;
  size_t used_ = 0;
};

// Backend::Allocate of the host's backends.
Result<std::unique_ptr<DeviceBuffer>> AllocateHostBuffer(size_t bytes);

// The least of the system's available memory and what the control group may still use.
uint64_t FreeHostMemoryBytes();

}  // namespace echelon
