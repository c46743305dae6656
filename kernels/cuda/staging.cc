#include "kernels/cuda/staging.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace echelon::cuda {

namespace {
// A step of 64 sequences of 16,384 positions: 1,024 pages * 4 bytes each, 256 KiB, and as much
// again in units of attention.
constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kRegionBytesMin = 256;  // 64 numbers: most arrays of a step of at most 64 rows
}  // namespace

Staging::~Staging() {
  for (const Block& block : blocks_) device_.runtime().FreePinned(block.pinned);
}

void Staging::Turn() {
  for (Block& block : blocks_) block.used = 0;
  set_ = (set_ + 1) % kMarksMax;
  block_ = 0;
}

// At a block of its own: what was put before does not move it.
void Staging::BeginRegion() {
  if (block_ < blocks_.size() && blocks_[block_].used > 0) ++block_;
  region_ = block_;
  in_region_ = true;
}

void Staging::RewindRegion() {
  for (size_t i = region_; i < blocks_.size(); ++i) blocks_[i].used = 0;
  block_ = region_;
}

void Staging::SendRegion() {
  for (size_t i = region_; i < blocks_.size(); ++i) {
    device_.CopyIn(blocks_[i].memory.data(), blocks_[i].Pinned(set_), blocks_[i].used);
  }
  in_region_ = false;
}

bool Staging::AddBlock(size_t bytes) {
  const size_t wanted = std::max(bytes, kBlockBytes);
  auto memory = device_.Allocate(wanted, "staging");
  if (!memory.ok()) {
    device_.Fail(memory.error());
    return false;
  }
  void* pinned = nullptr;
  if (!device_.AllocatePinned(kMarksMax * wanted, &pinned)) return false;
  blocks_.push_back({static_cast<char*>(pinned), std::move(memory).value(), 0});
  return true;
}

const void* Staging::PutBytes(const void* values, size_t bytes) {
  if (bytes == 0 || device_.failure()) return nullptr;
  const size_t rounded = in_region_ ? std::bit_ceil(std::max(bytes, kRegionBytesMin))
                                    : (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (block_ < blocks_.size() &&
         rounded > blocks_[block_].memory.bytes() - blocks_[block_].used) {
    ++block_;
  }
  if (block_ == blocks_.size() && !AddBlock(rounded)) return nullptr;
  Block& block = blocks_[block_];
  char* to = block.memory.data() + block.used;
  char* from = block.Pinned(set_) + block.used;
  std::memcpy(from, values, bytes);
  if (!in_region_) device_.CopyIn(to, from, bytes);
  block.used += rounded;
  return to;
}

}  // namespace echelon::cuda
