#include "common/model/template_text.h"

#include <algorithm>

#include "common/model/utf8.h"

namespace echelon::chat {

namespace {

// str.isspace: White_Space and the four separators of ASCII.
bool IsPythonSpace(char32_t code) { return IsUnicodeSpace(code) || (code >= 0x1C && code <= 0x1F); }

size_t PreviousChar(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (static_cast<uint8_t>(text[position]) & 0xC0) == 0x80);
  return position;
}

bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }

}  // namespace

size_t NextChar(std::string_view text, size_t position) {
  return position + DecodeUtf8(text, position).bytes;
}

int64_t CountChars(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

MarkedText Strip(const MarkedText& text, const MarkedText* set, bool left, bool right) {
  const std::string_view view = text.text;
  const auto goes = [&](size_t begin, size_t end) {
    if (set == nullptr) return IsPythonSpace(DecodeUtf8(view, begin).code);
    return set->text.find(view.substr(begin, end - begin)) != std::string::npos;
  };
  size_t begin = 0;
  size_t end = view.size();
  while (left && begin < end && goes(begin, NextChar(view, begin))) begin = NextChar(view, begin);
  while (right && begin < end && goes(PreviousChar(view, end), end)) end = PreviousChar(view, end);
  return text.Sub({begin, end});
}

std::optional<MarkedText> ChangeCase(const MarkedText& text, std::string_view how) {
  MarkedText out = text;
  bool in_word = false;
  for (size_t i = 0; i < out.text.size(); ++i) {
    char& c = out.text[i];
    if (static_cast<uint8_t>(c) >= 0x80) return std::nullopt;
    const bool raise =
        how == "upper" || (how == "title" && !in_word) || (how == "capitalize" && i == 0);
    in_word = IsLower(c) || IsUpper(c);
    if (raise && IsLower(c)) c = static_cast<char>(c - 'a' + 'A');
    if (!raise && IsUpper(c)) c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::vector<MarkedText> SplitText(const MarkedText& text, const MarkedText* separator,
                                  int64_t count) {
  std::vector<MarkedText> parts;
  const std::string_view view = text.text;
  const auto limited = [&] { return count >= 0 && static_cast<int64_t>(parts.size()) >= count; };
  size_t begin = 0;
  if (separator != nullptr) {
    size_t found = 0;
    while (!limited() && (found = view.find(separator->text, begin)) != std::string_view::npos) {
      parts.push_back(text.Sub({begin, found}));
      begin = found + separator->text.size();
    }
    parts.push_back(text.Sub({begin, view.size()}));
    return parts;
  }
  while (true) {
    while (begin < view.size() && IsPythonSpace(DecodeUtf8(view, begin).code)) {
      begin = NextChar(view, begin);
    }
    if (begin == view.size()) return parts;
    if (limited()) {
      parts.push_back(text.Sub({begin, view.size()}));
      return parts;
    }
    size_t end = begin;
    while (end < view.size() && !IsPythonSpace(DecodeUtf8(view, end).code)) {
      end = NextChar(view, end);
    }
    parts.push_back(text.Sub({begin, end}));
    begin = end;
  }
}

MarkedText ReplaceText(const MarkedText& text, std::string_view pattern, const MarkedText& content,
                       int64_t count) {
  MarkedText out;
  size_t begin = 0;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t found = text.text.find(pattern, begin);
    if (found == std::string::npos) break;
    out.Append(text, begin, found - begin);
    out.Append(content);
    begin = found + pattern.size();
  }
  out.Append(text, begin);
  return out;
}

MarkedText Indent(const MarkedText& text, int width, bool first) {
  MarkedText out;
  const std::string blanks(static_cast<size_t>(width), ' ');
  size_t begin = 0;
  while (begin <= text.text.size()) {
    const size_t end = std::min(text.text.find('\n', begin), text.text.size());
    if ((begin > 0 || first) && end > begin) out.AppendTrusted(blanks);
    out.Append(text, begin, std::min(end + 1, text.text.size()) - begin);
    begin = end + 1;
  }
  return out;
}

}  // namespace echelon::chat
