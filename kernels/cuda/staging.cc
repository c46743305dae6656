#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace echelon::cuda {

namespace {
// A step of 64 sequences of 16,384 positions: 1,024 pages * 4 bytes each, 256 KiB, and as much
// again in units of attention.
constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr size_t kAlignment = 64;
}  // namespace

Staging::~Staging() {
  for (const Block& block : blocks_) device_.runtime().FreePinned(block.pinned);
}

void Staging::Reset() { block_ = used_ = 0; }

bool Staging::AddBlock(size_t bytes) {
  const size_t wanted = std::max(bytes, kBlockBytes);
  auto memory = device_.Allocate(wanted, "staging");
  if (!memory.ok()) {
    device_.Fail(memory.error());
    return false;
  }
  void* pinned = nullptr;
  if (!device_.AllocatePinned(wanted, &pinned)) return false;
  blocks_.push_back({static_cast<char*>(pinned), std::move(memory).value()});
  return true;
}

const void* Staging::PutBytes(const void* values, size_t bytes) {
  if (bytes == 0 || device_.failure()) return nullptr;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (block_ < blocks_.size() && rounded > blocks_[block_].memory.bytes() - used_) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size() && !AddBlock(rounded)) return nullptr;
  const Block& block = blocks_[block_];
  char* to = block.memory.data() + used_;
  std::memcpy(block.pinned + used_, values, bytes);
  device_.CopyIn(to, block.pinned + used_, bytes);
  used_ += rounded;
  return to;
}

}  // namespace echelon::cuda
