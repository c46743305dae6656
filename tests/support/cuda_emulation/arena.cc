#include "tests/support/cuda_emulation/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/strings.h"
#include "tests/support/cuda_emulation/unwritten.h"

namespace echelon::emulation {

namespace {

constexpr size_t kCapacityBytes = size_t{1} << 30;
constexpr size_t kAddressBytes = 4 * kCapacityBytes;  // so that what is freed stays unused a while
constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;  // as cudaMalloc's

}  // namespace

// Everywhere but in allocations the addresses are those of a file without bytes: touching one ends
// the program, whatever protection they have, so that one call opens or closes all allocations.
Arena::Arena()
    : file_(memfd_create("device memory", MFD_CLOEXEC)),
      none_(memfd_create("no memory", MFD_CLOEXEC)) {
  CHECK(file_ >= 0 && none_ >= 0 && ftruncate(file_, kAddressBytes) == 0);
  void* const memory =
      mmap(nullptr, kAddressBytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, none_, 0);
  CHECK(memory != MAP_FAILED);
  base_ = static_cast<char*>(memory);
}

size_t Arena::Rounded(size_t bytes) {
  return std::max<size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
}

void* Arena::Take(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const size_t rounded = Rounded(bytes);
  if (rounded > kCapacityBytes - taken_) return nullptr;
  const size_t pages = (rounded + kPage - 1) / kPage * kPage;
  const size_t offset = Place(pages + kPage);  // a page behind that is nobody's
  taken_ += rounded;
  next_ = offset + pages + kPage;
  end_ = std::max(end_, next_);
  void* const at = mmap(base_ + offset, pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                        file_, static_cast<off_t>(offset));
  CHECK(at != MAP_FAILED);
  FillUnwritten(at, pages);
  if (open_ == 0) CHECK(mprotect(at, pages, PROT_NONE) == 0);
  blocks_[offset] = {bytes, pages, offset + pages - rounded};
  return base_ + offset + pages - rounded;
}

size_t Arena::Place(size_t bytes) {
  size_t at = std::max(next_, kPage);  // so that there is a page before the first one, too
  for (bool again = false;; again = true) {
    for (auto block = blocks_.lower_bound(at); block != blocks_.end(); ++block) {
      if (at + bytes <= block->first) return at;
      at = std::max(at, block->first + block->second.pages + kPage);
    }
    if (at + bytes <= kAddressBytes) return at;
    CHECK_MSG(!again, "the emulated devices' addresses are used up");
    at = kPage;
  }
}

void Arena::Give(void* memory) {
  const std::lock_guard lock(mutex_);
  const auto data = static_cast<size_t>(static_cast<char*>(memory) - base_);
  auto found = blocks_.upper_bound(data);
  CHECK_MSG(found != blocks_.begin() && (--found)->second.data == data,
            "freed device memory that was not allocated");
  const auto [offset, block] = *found;
  char* const begin = base_ + offset;
  if (open_ == 0) CHECK(mprotect(begin, block.pages, PROT_READ) == 0);
  CHECK_MSG(IsUnwritten(begin, data - offset), "device memory before an allocation was written");
  CHECK_MSG(IsUnwritten(base_ + data + block.bytes, offset + block.pages - data - block.bytes),
            "device memory behind an allocation was written");
  const auto at = static_cast<off_t>(offset);
  CHECK(mmap(begin, block.pages, open_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE,
             MAP_SHARED | MAP_FIXED | MAP_NORESERVE, none_, at) != MAP_FAILED);
  CHECK(fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                  static_cast<off_t>(block.pages)) == 0);
  taken_ -= Rounded(block.bytes);
  blocks_.erase(found);
}

size_t Arena::FreeBytes() const {
  const std::lock_guard lock(mutex_);
  return kCapacityBytes - taken_;
}

void Arena::Open() {
  const std::lock_guard lock(mutex_);
  if (open_++ == 0) Protect(PROT_READ | PROT_WRITE);
}

void Arena::Close() {
  const std::lock_guard lock(mutex_);
  if (--open_ == 0) Protect(PROT_NONE);
}

void Arena::Protect(int protection) { CHECK(end_ == 0 || mprotect(base_, end_, protection) == 0); }

std::string Arena::Explain(const void* address) const {
  const auto at = static_cast<size_t>(static_cast<const char*>(address) - base_);
  if (at >= kAddressBytes) return "";
  const auto after = blocks_.upper_bound(at);
  if (after != blocks_.begin()) {
    const auto& [offset, block] = *std::prev(after);
    const size_t end = block.data + block.bytes;
    if (at < offset + block.pages) {
      return StrCat("device memory (", block.bytes, " bytes) while no kernel and no copy runs");
    }
    if (at < offset + block.pages + kPage) {
      return StrCat("device memory ", at - end, " bytes behind the end of an allocation of ",
                    block.bytes, " bytes");
    }
  }
  if (after != blocks_.end() && after->first - at <= kPage) {
    return StrCat("device memory ", after->second.data - at, " bytes before an allocation of ",
                  after->second.bytes, " bytes");
  }
  return "device memory that is not allocated, or not any more";
}

Arena& TheArena() {
  static Arena arena;
  return arena;
}

void CopyDevice(void* to, const void* from, size_t bytes) {
  const OpenMemory open;
  std::memcpy(to, from, bytes);
}

void ClearDevice(void* memory, size_t bytes) {
  const OpenMemory open;
  std::memset(memory, 0, bytes);
}

}  // namespace echelon::emulation
