#include "common/model/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/checked.h"
#include "common/strings.h"

namespace echelon {

Result<File> File::Open(const std::string& path) {
  File file;
  file.path_ = path;
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.descriptor_ < 0) return NotFound(StrCat(path, ": ", std::strerror(errno)));
  struct stat status {};
  if (::fstat(file.descriptor_, &status) != 0) {
    return NotFound(StrCat(path, ": ", std::strerror(errno)));
  }
  if (!S_ISREG(status.st_mode)) return NotFound(StrCat(path, ": not a regular file"));
  file.size_ = static_cast<uint64_t>(status.st_size);
  return file;
}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status File::Read(uint64_t offset, std::span<std::byte> out) const {
  if (!(Checked(offset) + Checked(out.size())).AtMost(size_)) {
    return Corrupt(StrCat(path_, ": ", out.size(), " bytes are needed at byte ", offset,
                          ", but the file has ", size_, "; it is truncated"));
  }
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unavailable(StrCat(path_, ": reading: ", std::strerror(errno)));
    if (got == 0) {
      return Corrupt(StrCat(path_, ": ends at byte ", offset, "; it was cut while being read"));
    }
    out = out.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return {};
}

Result<std::string> ReadTextFile(const std::string& path, uint64_t bytes_max) {
  ASSIGN_OR_RETURN(const File file, File::Open(path));
  if (file.size() > bytes_max) {
    return Corrupt(StrCat(path, ": ", file.size(), " bytes, the limit is ", bytes_max));
  }
  std::string text(file.size(), '\0');
  RETURN_IF_ERROR(file.Read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace echelon
