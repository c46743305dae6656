#pragma once
// The shared memory of blocks, one after the other: unwritten (unwritten.h) when one begins, both
// what its launch was told and what the kernel declares. The launched part ends at a page that
// nobody can touch. One thread, on which the blocks run.

#include <cstddef>
#include <map>
#include <vector>

#include "tests/support/cuda_emulation/symbols.h"

namespace echelon::emulation {

// What a device gives a block without being asked, and what every device of compute capability 8.0
// or more gives when asked: of a launch's own bytes and what the kernel declares, together.
inline constexpr size_t kSharedBytesUnasked = size_t{48} << 10;
inline constexpr size_t kSharedBytesAtMost = size_t{99} << 10;
// What Launch in kernels/cuda/device.cuh takes for declared, as it decides whether to ask.
inline constexpr size_t kSharedBytesDeclared = size_t{24} << 10;

class BlockShared {
 public:
  BlockShared();
  ~BlockShared();
  BlockShared(const BlockShared&) = delete;
  BlockShared& operator=(const BlockShared&) = delete;

  void Begin(const void* kernel, size_t bytes);
  // Also ends the program where the block had more than its launch would have been given.
  void End();
  char* launched() const { return launched_; }

 private:
  // What the kernel may use: its own variables and those of functions that are no kernels.
  const std::vector<SharedVariable>& VariablesOf(const void* kernel);

  char* const memory_;
  char* launched_ = nullptr;
  size_t bytes_ = 0;
  char* thread_ = nullptr;
  const std::string* kernel_ = nullptr;
  const std::vector<SharedVariable>* variables_ = nullptr;
  std::map<const void*, std::vector<SharedVariable>> of_kernels_;
};

}  // namespace echelon::emulation
