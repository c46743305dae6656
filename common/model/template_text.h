#pragma once
// Python's string methods on texts that remember where their bytes came from. Pure functions.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/marked_text.h"

namespace echelon::chat {

size_t NextChar(std::string_view text, size_t position);
int64_t CountChars(std::string_view text);
// Without the characters of `set` (null: white space) at its ends.
MarkedText Strip(const MarkedText& text, const MarkedText* set, bool left, bool right);
// `how`: upper, lower, title, capitalize. Nothing where the text has letters beyond ASCII.
std::optional<MarkedText> ChangeCase(const MarkedText& text, std::string_view how);
// `separator` null: at runs of white space. At most `count` cuts where that is not negative.
std::vector<MarkedText> SplitText(const MarkedText& text, const MarkedText* separator,
                                  int64_t count);
MarkedText ReplaceText(const MarkedText& text, std::string_view pattern, const MarkedText& content,
                       int64_t count);
// Spaces before every line that is not empty, the first only where asked.
MarkedText Indent(const MarkedText& text, int width, bool first);

}  // namespace echelon::chat
