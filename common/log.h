#pragma once
// One line to stderr per event: time, level, who (process and rank), text. Lines of several threads
// never mix. `Logger` is passed in; there is no global one.

#include <string>
#include <string_view>

namespace echelon {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

class Logger {
 public:
  // `who` stands in every line: "coordinator", "worker 3".
  explicit Logger(std::string who, LogLevel level = LogLevel::kInfo)
      : who_(std::move(who)), level_(level) {}
  void Debug(std::string_view text) const { Write(LogLevel::kDebug, text); }
  void Info(std::string_view text) const { Write(LogLevel::kInfo, text); }
  void Warn(std::string_view text) const { Write(LogLevel::kWarn, text); }
  void Error(std::string_view text) const { Write(LogLevel::kError, text); }

 private:
  void Write(LogLevel level, std::string_view text) const;
  std::string who_;
  LogLevel level_;
};

}  // namespace echelon
