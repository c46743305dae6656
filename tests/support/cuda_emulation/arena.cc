#include "tests/support/cuda_emulation/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
  char* const begin = Add(offset, {bytes, pages, offset + pages - rounded}, file_, offset);
  FillUnwritten(begin, pages);
  if (open_ == 0) CHECK(mprotect(begin, pages, PROT_NONE) == 0);
  return base_ + offset + pages - rounded;
}

char* Arena::Add(size_t offset, const Block& block, int file, size_t from) {
  void* const at = mmap(base_ + offset, block.pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                        file, static_cast<off_t>(from));
  CHECK(at != MAP_FAILED);
  blocks_[offset] = block;
  next_ = offset + block.pages + kPage;
  end_ = std::max(end_, next_);
  return static_cast<char*>(at);
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

Arena::Blocks::const_iterator Arena::Find(void* memory) const {
  const auto data = static_cast<size_t>(static_cast<char*>(memory) - base_);
  const auto after = blocks_.upper_bound(data);
  CHECK_MSG(after != blocks_.begin() && std::prev(after)->second.data == data,
            "device memory that was not allocated");
  return std::prev(after);
}

void Arena::Remove(Blocks::const_iterator block) {
  const auto [offset, of] = *block;
  CHECK(mmap(base_ + offset, of.pages, open_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE,
             MAP_SHARED | MAP_FIXED | MAP_NORESERVE, none_,
             static_cast<off_t>(offset)) != MAP_FAILED);
  blocks_.erase(block);
}

void Arena::Give(void* memory) {
  const std::lock_guard lock(mutex_);
  const auto found = Find(memory);
  const auto [offset, block] = *found;
  if (open_ == 0) CHECK(mprotect(base_ + offset, block.pages, PROT_READ) == 0);
  CHECK_MSG(IsUnwritten(base_ + offset, block.data - offset),
            "device memory before an allocation was written");
  const size_t end = block.data + block.bytes;
  CHECK_MSG(IsUnwritten(base_ + end, offset + block.pages - end),
            "device memory behind an allocation was written");
  Remove(found);
  CHECK(fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(block.pages)) == 0);
  taken_ -= Rounded(block.bytes);
}

Arena::Handle Arena::Share(void* memory) const {
  const std::lock_guard lock(mutex_);
  struct stat numbers = {};
  CHECK(fstat(file_, &numbers) == 0);
  const auto& [offset, block] = *Find(memory);
  return {getpid(), file_, numbers.st_ino, offset, block.pages, block.data, block.bytes};
}

void* Arena::Map(const Handle& handle) {
  const std::string path = StrCat("/proc/", handle.process, "/fd/", handle.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat numbers = {};
  void* memory = nullptr;
  if (file >= 0 && fstat(file, &numbers) == 0 && numbers.st_ino == handle.inode) {
    const std::lock_guard lock(mutex_);
    const size_t offset = Place(handle.pages + kPage);
    const size_t data = handle.data - handle.offset;
    char* const begin =
        Add(offset, {handle.bytes, handle.pages, offset + data}, file, handle.offset);
    if (open_ == 0) CHECK(mprotect(begin, handle.pages, PROT_NONE) == 0);
    memory = begin + data;
  }
  if (file >= 0) close(file);
  return memory;
}

void Arena::Unmap(void* memory) {
  const std::lock_guard lock(mutex_);
  Remove(Find(memory));
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
