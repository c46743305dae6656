#include "worker/comm/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/strings.h"

namespace echelon {

namespace {

Error SystemError(const char* what) {
  return Unsupported(StrCat("shared memory between ranks: ", what, ": ", std::strerror(errno),
                            "; worker.shared_memory: off does without"));
}

}  // namespace

Result<std::shared_ptr<SharedSegment>> SharedSegment::Create(size_t bytes) {
  const int descriptor = memfd_create("echelon-ranks", MFD_CLOEXEC);
  if (descriptor < 0) return SystemError("memfd_create");
  void* data = MAP_FAILED;
  if (ftruncate(descriptor, static_cast<off_t>(bytes)) == 0) {
    data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  }
  if (data == MAP_FAILED) {
    const Error error = SystemError("mapping");
    close(descriptor);
    return error;
  }
  std::shared_ptr<SharedSegment> segment(
      new SharedSegment(descriptor, static_cast<std::byte*>(data), bytes));
  segment->self_ = segment;
  return segment;
}

Result<std::shared_ptr<SharedSegment>> SharedSegment::Attach(
    const SegmentAnnouncement& announcement) {
  if (announcement.process == getpid()) {
    return reinterpret_cast<SharedSegment*>(announcement.address)->self_.lock();
  }
  const std::string path = StrCat("/proc/", announcement.process, "/fd/", announcement.descriptor);
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return SystemError(path.c_str());
  struct stat info {};
  void* data = MAP_FAILED;
  if (fstat(descriptor, &info) == 0 && info.st_ino == announcement.inode &&
      info.st_dev == announcement.device &&
      static_cast<uint64_t>(info.st_size) == announcement.bytes) {
    data = mmap(nullptr, announcement.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  } else {
    errno = ENOENT;  // the same number in another process namespace
  }
  const Error error = SystemError(path.c_str());
  close(descriptor);
  if (data == MAP_FAILED) return error;
  return std::shared_ptr<SharedSegment>(
      new SharedSegment(-1, static_cast<std::byte*>(data), announcement.bytes));
}

SharedSegment::~SharedSegment() {
  munmap(data_, bytes_);
  CloseDescriptor();
}

SegmentAnnouncement SharedSegment::Announce() {
  struct stat info {};
  fstat(descriptor_, &info);
  SegmentAnnouncement announcement;
  announcement.process = getpid();
  announcement.descriptor = descriptor_;
  announcement.inode = info.st_ino;
  announcement.device = info.st_dev;
  announcement.bytes = bytes_;
  announcement.address = reinterpret_cast<uint64_t>(this);
  return announcement;
}

void SharedSegment::CloseDescriptor() {
  if (descriptor_ >= 0) close(std::exchange(descriptor_, -1));
}

}  // namespace echelon
