#include "common/log.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>

namespace echelon {

void Logger::Write(LogLevel level, std::string_view text) const {
  if (level < level_) return;
  static constexpr const char* kNames[] = {"debug", "info ", "warn ", "error"};
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  localtime_r(&seconds, &parts);
  char head[64];
  const size_t used = std::strftime(head, sizeof head, "%H:%M:%S", &parts);
  std::snprintf(head + used, sizeof head - used, ".%03d %s ", static_cast<int>(ms),
                kNames[static_cast<int>(level)]);
  std::string line = head + who_ + ": ";
  line.append(text);
  line.push_back('\n');
  // One write(2) per line keeps the lines of threads and processes whole.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace echelon
