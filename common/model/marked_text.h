#pragma once
// MarkedText: a text of which some bytes came from a stranger and must never become special tokens.
// Plain value.

#include <string>
#include <string_view>

namespace echelon {

struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

struct MarkedText {
  std::string text;
  std::string untrusted;  // empty: all is trusted. Else a 1 or 0 for each byte of the text

  static MarkedText Untrusted(std::string text) {
    std::string marks(text.size(), '\1');
    return {std::move(text), std::move(marks)};
  }
  bool Trusted(size_t begin, size_t end) const {
    return untrusted.empty() ||
           std::string_view(untrusted).substr(begin, end - begin).find('\1') == std::string::npos;
  }
  MarkedText Sub(TextRange range) const {
    const size_t count = range.end - range.begin;
    return {text.substr(range.begin, count),
            untrusted.empty() ? "" : untrusted.substr(range.begin, count)};
  }
  // `count` bytes of `other` from `begin` on.
  void Append(const MarkedText& other, size_t begin = 0, size_t count = std::string::npos) {
    if (!other.untrusted.empty()) {
      untrusted.resize(text.size(), '\0');
      untrusted.append(other.untrusted, begin, count);
    }
    text.append(other.text, begin, count);
    if (!untrusted.empty()) untrusted.resize(text.size(), '\0');
  }
  void AppendTrusted(std::string_view more) {
    text += more;
    if (!untrusted.empty()) untrusted.resize(text.size(), '\0');
  }
};

}  // namespace echelon
