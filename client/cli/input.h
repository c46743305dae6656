#pragma once
// What commands read from files and from the terminal, checked.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "client/cli/interrupts.h"
#include "common/json.h"
#include "common/result.h"

namespace echelon {

// A whole text file, valid UTF-8, at most `bytes_max` long.
Result<std::string> ReadUtf8File(const std::string& path, uint64_t bytes_max);

// The first `chars` Unicode characters of valid UTF-8; all of it where chars is 0 or too many.
std::string_view FirstCharacters(std::string_view text, int64_t chars);

// A conversation: a bare JSON array.
Result<Json> ReadMessages(const std::string& path);

// Lines of standard input, given up when an interrupt comes. One thread.
class LineReader {
 public:
  enum class End { kLine, kEndOfInput, kInterrupted };
  // kLine: `line` holds the next one, without its newline.
  End Read(Interrupts& interrupts, std::string& line);

 private:
  std::string buffer_;
  bool ended_ = false;
};

}  // namespace echelon
