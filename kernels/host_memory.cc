#include "kernels/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "common/strings.h"

namespace echelon {

namespace {
// Address space that an arena takes at a time. What is not used of it is never touched, but for the
// rest of a huge page: a small model's weights are to lie in one block.
constexpr size_t kArenaBytes = size_t{128} << 20;
constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();

class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(HostBlock block) : block_(std::move(block)) {}
  void* data() override { return block_.data(); }
  size_t bytes() const override { return block_.bytes(); }

 private:
  HostBlock block_;
};

// The number a file of /sys/fs/cgroup consists of; kUnknown for "max" and missing files.
uint64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : kUnknown;
}

// The value of a "key value" line (kB for /proc/meminfo, bytes for memory.stat).
uint64_t ReadField(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  uint64_t value = 0;
  while (file >> name >> value) {
    if (name == key) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kUnknown;
}

// Limit - use of the control group, version 2 or 1. Cached file pages count as use there, but the
// system gives the inactive ones back before it refuses memory.
uint64_t FreeInControlGroup() {
  struct Files {
    const char *limit, *usage, *stat, *reclaimable;
  };
  constexpr Files kVersions[] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
       "inactive_file"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
       "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"}};
  for (const Files& files : kVersions) {
    const uint64_t limit = ReadNumber(files.limit);
    const uint64_t usage = ReadNumber(files.usage);
    if (limit == kUnknown || usage == kUnknown) continue;
    const uint64_t reclaimable = ReadField(files.stat, files.reclaimable);
    const uint64_t held = usage - (reclaimable == kUnknown ? 0 : std::min(usage, reclaimable));
    return limit - std::min(limit, held);
  }
  return kUnknown;
}
}  // namespace

HostBlock::HostBlock(size_t bytes, bool zero) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kHostAlignment;
  // aligned_alloc takes whole multiples of the alignment. Never zero bytes: data() is not null.
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  if (rounded < bytes) return;
  data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (data_ == nullptr) return;
  bytes_ = bytes;
  if (alignment == kHugePageBytes)
    madvise(data_, rounded, MADV_HUGEPAGE);  // a hint: may be refused
  if (zero) std::memset(data_, 0, rounded);
}

HostBlock::~HostBlock() { std::free(data_); }

HostBlock::HostBlock(HostBlock&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostBlock& HostBlock::operator=(HostBlock&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Result<HostBlock> AllocateHost(size_t bytes, const char* what, bool zero) {
  const auto refuse = [&](uint64_t free) {
    return ResourceExhausted(StrCat(what, " needs ", HumanBytes(static_cast<double>(bytes)),
                                    " of memory, free are about ",
                                    HumanBytes(static_cast<double>(free)),
                                    ": use more ranks, a smaller cache or a smaller model"));
  };
  // The system promises more memory than it has and kills later: compare before touching it.
  if (const uint64_t free = FreeHostMemoryBytes(); bytes > free) return refuse(free);
  HostBlock block(bytes, zero);
  if (block.data() == nullptr) return refuse(FreeHostMemoryBytes());
  return block;
}

Result<HostPiece> HostArena::Take(size_t bytes, const char* what) {
  const size_t rounded = (bytes + kHostAlignment - 1) / kHostAlignment * kHostAlignment;
  if (block_ == nullptr || rounded > block_->bytes() - used_) {
    const uint64_t modest = std::min<uint64_t>(kArenaBytes, FreeHostMemoryBytes() / 4);
    ASSIGN_OR_RETURN(HostBlock block, AllocateHost(std::max<size_t>(rounded, modest), what));
    block_ = std::make_shared<HostBlock>(std::move(block));
    used_ = 0;
  }
  HostPiece piece = {block_, block_->data() + used_, bytes};
  used_ += rounded;
  return piece;
}

Result<std::unique_ptr<DeviceBuffer>> AllocateHostBuffer(size_t bytes) {
  ASSIGN_OR_RETURN(HostBlock block, AllocateHost(bytes, "a buffer"));
  return std::unique_ptr<DeviceBuffer>(new HostBuffer(std::move(block)));
}

uint64_t FreeHostMemoryBytes() {
  uint64_t available = ReadField("/proc/meminfo", "MemAvailable:");
  if (available != kUnknown) available *= 1024;
  return std::min(available, FreeInControlGroup());
}

}  // namespace echelon
