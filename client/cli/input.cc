#include "client/cli/input.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/model/file.h"
#include "common/strings.h"

namespace echelon {

namespace {
constexpr size_t kMessagesBytesMax = 16 << 20;  // the service's own limit is lower
}

Result<std::string> ReadUtf8File(const std::string& path, uint64_t bytes_max) {
  ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, bytes_max));
  if (!IsValidUtf8(text)) return Corrupt(StrCat(path, " is not valid UTF-8"));
  return text;
}

std::string_view FirstCharacters(std::string_view text, int64_t chars) {
  if (chars <= 0) return text;
  size_t end = 0;
  while (end < text.size() && chars > 0) {
    ++end;
    // Continuation bytes are 10xxxxxx: a character ends before the next byte that is none.
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    --chars;
  }
  return text.substr(0, end);
}

Result<Json> ReadMessages(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadUtf8File(path, kMessagesBytesMax));
  ASSIGN_OR_RETURN(Json messages, Json::Parse(text, path));
  if (!messages.is_array()) {
    return Corrupt(StrCat(path, ": is ", messages.KindName(),
                          "; a conversation is an array of {\"role\",\"content\"}"));
  }
  return messages;
}

LineReader::End LineReader::Read(Interrupts& interrupts, std::string& line) {
  while (true) {
    if (const size_t newline = buffer_.find('\n'); newline != std::string::npos) {
      line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      return End::kLine;
    }
    if (ended_) {
      if (buffer_.empty()) return End::kEndOfInput;
      line = std::exchange(buffer_, "");
      return End::kLine;
    }
    pollfd sources[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupts.fd(), POLLIN, 0}};
    if (poll(sources, 2, -1) < 0 && errno != EINTR) return End::kEndOfInput;
    if (interrupts.Take()) return End::kInterrupted;
    if (sources[0].revents == 0) continue;
    char block[4096];
    const ssize_t got = read(STDIN_FILENO, block, sizeof block);
    if (got <= 0) {
      ended_ = true;
    } else {
      buffer_.append(block, static_cast<size_t>(got));
    }
  }
}

}  // namespace echelon
