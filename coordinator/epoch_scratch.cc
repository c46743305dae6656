#include "coordinator/epoch_scratch.h"

#include <signal.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string_view>

namespace echelon {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "echelon-group-";
constexpr char kSharedMemory[] = "/dev/shm";

// "echelon-group-<pid>...." of a process that is no more.
bool IsStale(const std::string& name) {
  if (name.rfind(kPrefix, 0) != 0) return false;
  pid_t pid = 0;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kPrefix.size(), end, pid);
  return error == std::errc() && rest != end && *rest == '.' && pid > 0 && kill(pid, 0) != 0 &&
         errno == ESRCH;
}

std::string MakeIn(const fs::path& parent, const std::string& marker) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!IsStale(entry->path().filename().string())) continue;
    std::error_code ignored;  // another user's: not ours to remove
    fs::remove_all(entry->path(), ignored);
  }
  const fs::path folder = parent / (std::string(kPrefix) + marker);
  if (!fs::create_directory(folder, error)) return "";
  fs::permissions(folder, fs::perms::owner_all, error);
  return folder.string();
}

}  // namespace

EpochScratch::EpochScratch(const std::string& marker) {
  std::error_code error;
  const fs::path temporary = fs::temp_directory_path(error);
  sessions_ = MakeIn(error ? fs::path("/tmp") : temporary, marker);
  shared_memory_ = MakeIn(kSharedMemory, marker);
}

EpochScratch::~EpochScratch() {
  std::error_code ignored;
  if (!sessions_.empty()) fs::remove_all(sessions_, ignored);
  if (!shared_memory_.empty()) fs::remove_all(shared_memory_, ignored);
}

}  // namespace echelon
