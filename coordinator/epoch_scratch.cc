#include "coordinator/epoch_scratch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>

namespace echelon {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "echelon-group-";
// Somebody who tidies up may take a new folder away before it is locked; not so often in a row.
constexpr int kMakeAttemptsMax = 10;

// The descriptor that holds the lock on an existing folder, or -1: somebody else holds it, it is
// another user's, or it is gone. Closed on exec: a launcher that outlives us must not keep it.
int Lock(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat locked = {}, there = {};
  // Only if it is still the folder of that name: its last owner may just have removed it.
  if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &locked) == 0 &&
      lstat(path.c_str(), &there) == 0 && locked.st_ino == there.st_ino &&
      locked.st_dev == there.st_dev) {
    return fd;
  }
  close(fd);
  return -1;
}

void RemoveWhatIsLeft(const fs::path& parent) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename().string().rfind(kPrefix, 0) != 0) continue;
    const int lock = Lock(entry->path());
    if (lock < 0) continue;
    std::error_code ignored;
    fs::remove_all(entry->path(), ignored);
    close(lock);
  }
}

std::string Temporary() {
  std::error_code error;
  const fs::path path = fs::temp_directory_path(error);
  return error ? "/tmp" : path.string();
}

}  // namespace

LockedFolder::LockedFolder(const std::string& parent, const std::string& marker) {
  RemoveWhatIsLeft(parent);
  const std::string path = fs::path(parent) / (std::string(kPrefix) + marker);
  for (int attempt = 0; attempt < kMakeAttemptsMax && lock_ < 0; ++attempt) {
    if (mkdir(path.c_str(), S_IRWXU) != 0 && path_.empty()) return;
    path_ = path;
    lock_ = Lock(path);
  }
}

LockedFolder::~LockedFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
  if (lock_ >= 0) close(lock_);
}

EpochScratch::EpochScratch(const std::string& marker)
    : sessions_(Temporary(), marker), shared_memory_("/dev/shm", marker) {}

}  // namespace echelon
