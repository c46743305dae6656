#pragma once
// UTF-8 by hand: decoding, encoding and repairing. Pure functions, safe from any thread.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace echelon {

struct Utf8Char {
  char32_t code = 0;
  int bytes = 0;       // how many bytes it took
  bool valid = false;  // false: `bytes` is the length of the ill-formed part
  bool cut = false;    // ill-formed only because the text ends: more bytes could complete it
};
// The character at `position` (< text.size()). An ill-formed part is the longest prefix of a valid
// sequence, at least one byte: what Unicode calls a maximal subpart.
Utf8Char DecodeUtf8(std::string_view text, size_t position);
void AppendUtf8(std::string& out, char32_t code);
// Every ill-formed part replaced by U+FFFD.
std::string RepairUtf8(std::string_view bytes);
// Moves everything out of `pending` that cannot change any more, repaired; an unfinished character
// of at most three bytes stays.
std::string TakeCompleteUtf8(std::string& pending);
// A stranger's text for an error message: its first 64 bytes, repaired, control characters
// replaced.
std::string ForMessage(std::string_view text);
// White_Space of Unicode: what \s means in Hugging Face's regexes.
bool IsUnicodeSpace(char32_t code);

}  // namespace echelon
