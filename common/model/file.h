#pragma once
// File: a regular file opened for reading at offsets. Untrusted names are safe to open: a pipe or a
// device is refused, not waited for. Read is const and may be used by several threads at once.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "common/result.h"

namespace echelon {

class File {
 public:
  static Result<File> Open(const std::string& path);
  File(File&& other) noexcept { *this = std::move(other); }
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // bytes, when it was opened
  // Fills `out` from `offset`; anything less is an error.
  Status Read(uint64_t offset, std::span<std::byte> out) const;

 private:
  File() = default;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  std::string path_;
};

// The whole text of a small file; one of more than `bytes_max` is refused before it is read.
Result<std::string> ReadTextFile(const std::string& path, uint64_t bytes_max);

}  // namespace echelon
