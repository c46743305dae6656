#pragma once
// SharedSegment: memory that the ranks of one host map, without a name in any file system: it is a
// memfd, which the other processes open as /proc/<pid>/fd/<fd>. So nothing is left behind by a
// process that is killed at any moment, and the size of /dev/shm (64 MiB in a container) does not
// matter. Pages are zero, and cost memory once they are touched.
//
// One rank creates and passes on the announcement, the others attach, and once all have, the
// creator calls CloseDescriptor: from then on the memory lives as long as somebody maps it. Ranks
// that are threads of one process share the creator's mapping. Any thread; no locks.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/result.h"

namespace echelon {

// What another rank needs to find the segment. Plain bytes: travels by AllGather.
struct SegmentAnnouncement {
  int64_t process = 0;  // 0: there is no segment
  int64_t descriptor = -1;
  uint64_t inode = 0;  // another container's process with the same number has another file there
  uint64_t device = 0;
  uint64_t bytes = 0;
  uint64_t address = 0;  // of the creator's mapping holder, for threads of the creator's process
};

class SharedSegment {
 public:
  static Result<std::shared_ptr<SharedSegment>> Create(size_t bytes);
  // Before the creator called CloseDescriptor.
  static Result<std::shared_ptr<SharedSegment>> Attach(const SegmentAnnouncement& announcement);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  SegmentAnnouncement Announce();
  void CloseDescriptor();
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  SharedSegment(int descriptor, std::byte* data, size_t bytes)
      : descriptor_(descriptor), data_(data), bytes_(bytes) {}

  int descriptor_;  // -1: closed
  std::byte* const data_;
  const size_t bytes_;
  std::weak_ptr<SharedSegment> self_;
};

}  // namespace echelon
